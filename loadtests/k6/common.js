// What the scripts share: the connection, the settings (environment variables), the subjects.
import grpc from 'k6/net/grpc';
import encoding from 'k6/encoding';

export const server = __ENV.SERVER || '127.0.0.1:50051';
export const duration = __ENV.DURATION || '30s';
export const rate = Number(__ENV.RATE || 1000); // calls a second, open loop
export const maxP99 = Number(__ENV.MAX_P99_MS || 50); // milliseconds
const subjects = Number(__ENV.SUBJECTS || 100);
const bodyBytes = Number(__ENV.BODY_BYTES || 256);

export const client = new grpc.Client();
client.load(['../../proto'], 'broker.proto');

// k6 hands `bytes` over as base64.
export const body = encoding.b64encode('x'.repeat(bodyBytes));

// One connection for each virtual user, opened with its first call.
let connected = false;
export function connect() {
  if (!connected) {
    client.connect(server, { plaintext: true });
    connected = true;
  }
}

export function subjectOf(iteration) {
  return `k6.${iteration % subjects}`;
}

// Calls arrive at a fixed rate, however slowly they are answered. A call that finds no free
// virtual user is dropped, and a dropped call fails the run.
export function openLoop(metric) {
  return {
    scenarios: {
      load: { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration, preAllocatedVUs: 50, maxVUs: 500 },
    },
    thresholds: {
      checks: ['rate==1.0'],
      dropped_iterations: ['count==0'],
      [metric]: [`p(99)<${maxP99}`],
    },
  };
}
