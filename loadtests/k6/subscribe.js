// Each virtual user subscribes to a subject of its own and plays ping-pong with itself: the next message is
// published when the one before was delivered.  SERVER DURATION USERS ROUND MAX_P99_MS (publish to delivery)
import grpc from 'k6/net/grpc';
import encoding from 'k6/encoding';
import { check } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { client, duration, maxP99, server } from './common.js';

const users = Number(__ENV.USERS || 10);
const round = Number(__ENV.ROUND || 50); // deliveries of one subscription
const probeEveryMs = 500;

const delivered = new Counter('deliveries');
const latency = new Trend('delivery_latency', true);

export const options = {
  scenarios: { load: { executor: 'constant-vus', vus: users, duration, gracefulStop: '30s' } },
  thresholds: {
    checks: ['rate==1.0'],
    deliveries: [`count>=${round}`],
    delivery_latency: [`p(99)<${maxP99}`],
  },
};

export default async function () {
  client.connect(server, { plaintext: true });
  const subject = `k6.ping.${exec.vu.idInTest}.${exec.vu.iterationInScenario}.${Date.now()}`;
  let sent = 0;
  let last = '';
  let answered; // the promise of the latest publish
  let timer;
  const ids = [];

  // The body says when it was sent, so a delivery needs nothing else to be timed.
  const publish = () => {
    last = `${Date.now()}.${sent++}`;
    answered = client
      .asyncInvoke('broker.Broker/Publish', { subject, body: encoding.b64encode(last), expirationSeconds: 0 })
      .then((answer) => check(answer, { 'publish is OK': (r) => r.status === grpc.StatusOK }));
  };

  await new Promise((resolve, reject) => {
    const stream = new grpc.Stream(client, 'broker.Broker/Subscribe');
    stream.on('data', (message) => {
      const body = encoding.b64decode(message.body, 'std', 's');
      ids.push(message.id);
      delivered.add(1);
      latency.add(Date.now() - Number(body.split('.')[0]));
      if (ids.length >= round) {
        // A subscription has no end of its own, and the iteration lasts as long as the stream: hang up.
        clearTimeout(timer);
        answered.then(() => {
          client.close();
          resolve();
        });
      } else if (body === last) {
        publish();
      }
    });
    stream.on('error', (error) => {
      if (ids.length < round) {
        reject(new Error(`subscribe: ${JSON.stringify(error)}`));
      }
    });
    stream.write({ subject });
    // k6 does not show the response headers, so the first publishes may come before the subscription.
    const probe = () => {
      if (ids.length === 0) {
        publish();
        timer = setTimeout(probe, probeEveryMs);
      }
    };
    probe();
  }).catch((error) => {
    // An exception alone would end the iteration without failing the run.
    console.error(error.message);
    check(error, { 'the stream holds': () => false });
  });
  check(ids, { 'deliveries are in order, each once': (list) => list.every((id, i) => i === 0 || id === list[i - 1] + 1) });
}
