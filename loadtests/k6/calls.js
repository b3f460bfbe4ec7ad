// The calls that the scripts are made of.
import grpc from 'k6/net/grpc';
import encoding from 'k6/encoding';
import { check } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { bodyBytes, messages, plaintext, proto, round, server, subjects } from './options.js';

export const client = new grpc.Client();
client.load([proto], 'broker.proto');

// k6 hands `bytes` over as base64.
const body = encoding.b64encode('x'.repeat(bodyBytes));
const delivered = new Counter('deliveries');
const deliveryLatency = new Trend('delivery_latency', true);

const subjectOf = (iteration) => `k6.${iteration % subjects}`;
// What went wrong is told once by each virtual user, and counted by the checks.
const told = new Set();
function isOk(answer) {
  if (answer.status !== grpc.StatusOK && !told.has(answer.status)) {
    told.add(answer.status);
    console.error(`status ${answer.status}: ${JSON.stringify(answer.error)}`);
  }
  return answer.status === grpc.StatusOK;
}

// One connection for each virtual user, opened with its first call.
let connected = false;
function connect() {
  if (!connected) {
    client.connect(server, { plaintext });
    connected = true;
  }
}

// A durable publish. `refusable`: the broker, or Envoy before it, may refuse it with RESOURCE_EXHAUSTED.
export function publish(tags, refusable) {
  connect();
  const subject = subjectOf(exec.scenario.iterationInTest);
  const request = { subject, body, expirationSeconds: 60 };
  const answer = client.invoke('broker.Broker/Publish', request, { tags: { call: 'publish', ...tags } });
  if (refusable && answer.status === grpc.StatusResourceExhausted) {
    return false;
  }
  check(answer, { 'publish is OK': isOk, 'publish has an id': (r) => r.message && r.message.id >= 1 });
  return true;
}

// Messages to fetch. The ids differ from run to run, so they are handed to the virtual users by `setup`.
export function publishBefore() {
  client.connect(server, { plaintext });
  const published = [];
  for (let i = 0; i < messages; i++) {
    const subject = subjectOf(i);
    // For longer than the longest soak.
    const answer = client.invoke('broker.Broker/Publish', { subject, body, expirationSeconds: 7 * 24 * 3600 });
    if (!isOk(answer)) {
      throw new Error(`publish before the run: ${JSON.stringify(answer.error)}`);
    }
    published.push({ subject, id: answer.message.id });
  }
  client.close();
  return published;
}

// A fetch of one of them.
export function fetch(published, tags) {
  connect();
  const request = published[exec.scenario.iterationInTest % published.length];
  const answer = client.invoke('broker.Broker/Fetch', request, { tags: { call: 'fetch', ...tags } });
  check(answer, { 'fetch is OK': isOk, 'fetch has the body': (r) => r.message && r.message.body === body });
}

const PROBE_EVERY_MS = 500;

// Subscribes to a subject of its own and plays ping-pong with itself: the next message is published when the one before was
// delivered, until there were enough. Then it hangs up.
export async function pingPong() {
  client.connect(server, { plaintext });
  const subject = `k6.ping.${exec.vu.idInTest}.${exec.vu.iterationInScenario}.${Date.now()}`;
  let sent = 0;
  let last = '';
  let answered = Promise.resolve(); // all publishes; before a cluster a later one may be answered first
  let timer;
  const ids = [];

  // The body says when it was sent, so a delivery needs nothing else to be timed.
  const send = () => {
    last = `${Date.now()}.${sent++}`;
    const checked = client
      .asyncInvoke('broker.Broker/Publish', { subject, body: encoding.b64encode(last), expirationSeconds: 0 })
      .then((answer) => check(answer, { 'publish is OK': isOk }));
    answered = Promise.all([answered, checked]);
  };

  await new Promise((resolve, reject) => {
    const stream = new grpc.Stream(client, 'broker.Broker/Subscribe');
    stream.on('data', (message) => {
      const text = encoding.b64decode(message.body, 'std', 's');
      ids.push(message.id);
      delivered.add(1);
      deliveryLatency.add(Date.now() - Number(text.split('.')[0]));
      if (ids.length >= round) {
        // A subscription has no end of its own, and the iteration lasts as long as the stream: hang up.
        clearTimeout(timer);
        answered.then(() => {
          client.close();
          resolve();
        });
      } else if (text === last) {
        send();
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
        send();
        timer = setTimeout(probe, PROBE_EVERY_MS);
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
