// What all scripts can be told, by environment variables (`-e NAME=VALUE` of k6 or the container's env), and what follows from
// it: how calls arrive, and what must hold. The same script so runs against one broker, Envoy, or a cluster in Kubernetes.
//   SERVER        host:port of a broker or of Envoy                        127.0.0.1:50051
//   PLAINTEXT     `false` for TLS, as an ingress may want it               true
//   PROTO         the folder that has broker.proto                         ../../proto
//   RATE          calls a second, open loop                                1000
//   DURATION      at that rate                                             30s
//   RAMP          time to get there from a tenth of it, before DURATION    5s
//   SUBJECTS      that messages are spread over                            100
//   BODY_BYTES    of each message                                          256
//   MESSAGES      published before a run that fetches                      1000
//   USERS, ROUND  subscribers, and deliveries of one subscription          10, 50
//   MAX_P99_MS    bound of every latency, publish to delivery included     50
//   SPIKE         how many times RATE the spike is (spike.js)              5
//   MAX_USERS     virtual users, of which each has a connection            500

const setting = (name, otherwise) => __ENV[name] || otherwise;
const number = (name, otherwise) => {
  const value = Number(setting(name, otherwise));
  if (!Number.isFinite(value) || value < 0) {
    throw new Error(`${name}=${__ENV[name]} is no number`);
  }
  return value;
};

export const server = setting('SERVER', '127.0.0.1:50051');
export const plaintext = setting('PLAINTEXT', 'true') !== 'false';
export const proto = setting('PROTO', '../../proto');
export const rate = number('RATE', 1000);
export const subjects = number('SUBJECTS', 100);
export const bodyBytes = number('BODY_BYTES', 256);
export const messages = number('MESSAGES', 1000);
export const users = number('USERS', 10);
export const round = number('ROUND', 50);
export const spike = number('SPIKE', 5);
const maxP99 = number('MAX_P99_MS', 50);
const maxUsers = number('MAX_USERS', 500);

// A duration such as 90s, 500ms or 1h30m, in milliseconds.
export function millis(text) {
  const units = { ms: 1, s: 1000, m: 60000, h: 3600000 };
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  if (parts.length === 0 || parts.map((part) => part[0]).join('') !== text) {
    throw new Error(`${text} is no duration such as 90s or 1h30m`);
  }
  return parts.reduce((sum, [, value, unit]) => sum + Number(value) * units[unit], 0);
}

export const duration = (otherwise) => setting('DURATION', otherwise || '30s');
const ramp = setting('RAMP', '5s');

// Calls arrive at rates of their own, however slowly they are answered. A call that finds no free virtual user is dropped,
// and a dropped call fails the run. `stages` are pairs of a rate and how long to get there, in milliseconds.
export function arrivals(stages, more) {
  // A second's worth of calls at the highest rate, as far as users go: making one takes time in which calls would be dropped.
  const ready = Math.max(50, ...stages.map(([target]) => Math.ceil(target)));
  return {
    executor: 'ramping-arrival-rate',
    startRate: Math.max(1, Math.round(stages[0][0])),
    timeUnit: '1s',
    stages: stages.slice(1).map(([target, ms]) => ({ target: Math.max(1, Math.round(target)), duration: `${Math.round(ms)}ms` })),
    preAllocatedVUs: Math.min(ready, maxUsers),
    maxVUs: maxUsers,
    ...more,
  };
}

// Up from a tenth, and on.
export function steady(share, more) {
  const wanted = rate * (share || 1);
  return arrivals([[wanted / 10, 0], [wanted, millis(ramp)], [wanted, millis(duration())]], more);
}

// Subscribers that play ping-pong with themselves, for as long as `steady` lasts.
export function subscribers(more) {
  const ms = Math.round(millis(ramp) + millis(duration()));
  return { executor: 'constant-vus', vus: users, duration: `${ms}ms`, gracefulStop: '30s', ...more };
}

// Every latency named has a p99 within the bound. A bound that nothing was measured for would hold, hence `max>0`.
export function thresholds(metrics) {
  const all = { checks: ['rate==1.0'], dropped_iterations: ['count==0'] };
  metrics.forEach((metric) => (all[metric] = [`p(99)<${maxP99}`, 'max>0']));
  return all;
}
