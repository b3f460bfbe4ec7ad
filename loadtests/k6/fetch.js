// Fetches at a fixed rate of messages published beforehand. Settings: options.js.
import { fetch, publishBefore } from './calls.js';
import { steady, thresholds } from './options.js';

export const options = {
  scenarios: { fetch: steady() },
  thresholds: thresholds(['grpc_req_duration{call:fetch}']),
};

export const setup = publishBefore;

export default function (published) {
  fetch(published);
}
