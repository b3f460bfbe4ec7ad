// The publisher of the main job: every line of the text is one message, published until it is acknowledged.
// Each answer is one line on the console: `acked SUBJECT ID NUMBER ATTEMPT` or `unknown NUMBER ATTEMPT CODE`.
// The checker (check.go) knows how a body is made from its number and attempt: keep bodyOf the same there.
import grpc from 'k6/net/grpc';
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import { sleep } from 'k6';
import { SharedArray } from 'k6/data';
import { Counter } from 'k6/metrics';

const lines = new SharedArray('lines', () => JSON.parse(open(__ENV.LINES)));
const subjects = Number(__ENV.SUBJECTS);
const acked = new Counter('acked');
const unknown = new Counter('unknown');

export const options = {
  scenarios: {
    publish: {
      executor: 'shared-iterations',
      vus: Number(__ENV.USERS),
      iterations: Number(__ENV.MESSAGES),
      maxDuration: '20m',
    },
  },
  thresholds: { acked: [`count==${__ENV.MESSAGES}`] },
};

const client = new grpc.Client();
client.load([__ENV.PROTO], 'broker.proto');
let connected = false;

const bodyOf = (number, attempt) => `${number}.${attempt} ${lines[number % lines.length]}`;

// The status code of one attempt, or why there was no answer at all.
function attemptPublish(subject, body) {
  try {
    if (!connected) {
      client.connect(__ENV.SERVER, { plaintext: true, timeout: '2s' });
      connected = true;
    }
    const request = { subject, body: encoding.b64encode(body), expirationSeconds: 3600 };
    const answer = client.invoke('broker.Broker/Publish', request, { timeout: '10s' });
    return answer.status === grpc.StatusOK ? { id: answer.message.id } : { code: answer.status };
  } catch (error) {
    return { code: 'no-connection' };
  }
}

export default function () {
  const number = exec.scenario.iterationInTest;
  const subject = `lines.${number % subjects}`;
  for (let attempt = 0; ; attempt++) {
    const answer = attemptPublish(subject, bodyOf(number, attempt));
    if (answer.id) {
      console.log(`acked ${subject} ${answer.id} ${number} ${attempt}`);
      acked.add(1);
      return;
    }
    // The broker may have it or not: the next attempt has another body, so that the checker can tell them apart.
    console.log(`unknown ${number} ${attempt} ${answer.code}`);
    unknown.add(1);
    client.close();
    connected = false;
    sleep(0.2);
  }
}
