// Durable publishes at a fixed rate. Settings: options.js.
import { publish } from './calls.js';
import { steady, thresholds } from './options.js';

export const options = {
  scenarios: { publish: steady() },
  thresholds: thresholds(['grpc_req_duration{call:publish}']),
};

export default function () {
  publish();
}
