// A gentle load for hours (DURATION=1h): publishes, fetches and subscribers. Each quarter of the time has bounds of its own, so
// that what gets slower cannot hide behind what was fast. Settings: options.js.
import exec from 'k6/execution';
import { fetch, pingPong, publish, publishBefore } from './calls.js';
import { arrivals, duration, millis, rate, round, thresholds, users } from './options.js';

const total = millis(duration('1h'));
const half = (name) => arrivals([[rate / 2, 0], [rate / 2, total]], { exec: name });
const latencies = [1, 2, 3, 4].flatMap((quarter) => [
  `grpc_req_duration{call:publish,quarter:${quarter}}`,
  `grpc_req_duration{call:fetch,quarter:${quarter}}`,
]);

export const options = {
  scenarios: {
    publish: half('publishes'),
    fetch: half('fetches'),
    subscribe: { executor: 'constant-vus', vus: users, duration: `${total}ms`, gracefulStop: '30s', exec: 'subscribes' },
  },
  thresholds: { ...thresholds([...latencies, 'delivery_latency']), deliveries: [`count>=${round}`] },
};

const quarter = () => ({ quarter: String(Math.min(4, Math.floor(exec.scenario.progress * 4) + 1)) });

export const setup = publishBefore;
export const publishes = () => publish(quarter());
export const fetches = (published) => fetch(published, quarter());
export const subscribes = pingPong;
