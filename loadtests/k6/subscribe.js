// From publish to delivery: each virtual user subscribes and plays ping-pong with itself. Settings: options.js.
import { pingPong } from './calls.js';
import { round, subscribers, thresholds } from './options.js';

export const options = {
  scenarios: { subscribe: subscribers() },
  thresholds: { ...thresholds(['delivery_latency']), deliveries: [`count>=${round}`] },
};

export default pingPong;
