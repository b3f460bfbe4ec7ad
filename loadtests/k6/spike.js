// Publishes that become SPIKE times as many within a second, and soon as few as before. Within the spike the server may refuse
// calls as too many (RESOURCE_EXHAUSTED), and nothing else; before and afterwards it answers as if nothing had been.
// Settings: options.js.
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { publish } from './calls.js';
import { arrivals, duration, millis, rate, spike, thresholds } from './options.js';

const total = millis(duration());
const high = rate * spike;
// Shares of DURATION, at whose ends the phases end: up, at the top, down, settled.
const [UP, TOP, DOWN, SETTLED] = [0.3, 0.35, 0.6, 0.7];

export const options = {
  scenarios: {
    spike: arrivals([
      [rate, 0],
      [rate, UP * total],
      [high, (TOP - UP) * total],
      [high, (DOWN - TOP) * total],
      [rate, (TOP - UP) * total],
      [rate, (1 - DOWN - (TOP - UP)) * total],
    ]),
  },
  // Within the spike a latency is shown and has no bound.
  thresholds: {
    ...thresholds(['grpc_req_duration{phase:before}', 'grpc_req_duration{phase:after}']),
    'grpc_req_duration{phase:spike}': ['max>0'],
  },
};

const refused = new Counter('refused');

function phase(progress) {
  if (progress < UP) return 'before';
  return progress < SETTLED ? 'spike' : 'after';
}

export default function () {
  const now = phase(exec.scenario.progress);
  if (!publish({ phase: now }, now === 'spike')) {
    refused.add(1);
  }
}
