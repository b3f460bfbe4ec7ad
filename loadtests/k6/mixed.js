// Publishes and fetches, half of RATE each, beside subscribers. Settings: options.js.
import { fetch, pingPong, publish, publishBefore } from './calls.js';
import { round, steady, subscribers, thresholds } from './options.js';

export const options = {
  scenarios: {
    publish: steady(0.5, { exec: 'publishes' }),
    fetch: steady(0.5, { exec: 'fetches' }),
    subscribe: subscribers({ exec: 'subscribes' }),
  },
  thresholds: {
    ...thresholds(['grpc_req_duration{call:publish}', 'grpc_req_duration{call:fetch}', 'delivery_latency']),
    deliveries: [`count>=${round}`],
  },
};

export const setup = publishBefore;
export const publishes = () => publish();
export const fetches = (published) => fetch(published);
export const subscribes = pingPong;
