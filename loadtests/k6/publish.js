// Durable publishes at a fixed rate.  SERVER RATE DURATION SUBJECTS BODY_BYTES MAX_P99_MS
import grpc from 'k6/net/grpc';
import { check } from 'k6';
import exec from 'k6/execution';
import { body, client, connect, openLoop, subjectOf } from './common.js';

export const options = openLoop('grpc_req_duration');

export default function () {
  connect();
  const subject = subjectOf(exec.scenario.iterationInTest);
  const answer = client.invoke('broker.Broker/Publish', { subject, body, expirationSeconds: 60 });
  check(answer, {
    'is OK': (r) => r.status === grpc.StatusOK,
    'has an id': (r) => r.message && r.message.id >= 1,
  });
}
