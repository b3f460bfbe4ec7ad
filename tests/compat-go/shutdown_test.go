package compat

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"walcast.example/compat/brokerpb"
)

func TestSigtermAnswersWhatIsInFlightAndEndsStreamsAsUnavailable(t *testing.T) {
	t.Parallel()
	const publishers = 16
	node := startNode(t)
	stream := node.connect(t).subscribe(t, "stop")
	acknowledged := make([]map[int32]string, publishers)
	refused := make([]error, publishers)
	var group, running sync.WaitGroup
	running.Add(publishers)
	for p := range publishers {
		broker := node.connect(t)
		acknowledged[p] = map[int32]string{}
		group.Go(func() {
			for i := 0; refused[p] == nil; i++ {
				body := fmt.Sprintf("%d/%d", p, i)
				answer, err := broker.Publish(wait(t), &brokerpb.PublishRequest{
					Subject: "stop", Body: []byte(body), ExpirationSeconds: 600})
				if refused[p] = err; err == nil {
					acknowledged[p][answer.Id] = body
				}
				if i == 20 || err != nil && i < 20 {
					running.Done()
				}
			}
		})
	}
	running.Wait()
	node.signal(syscall.SIGTERM)
	group.Wait()
	for p, err := range refused {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("publisher %d was refused with %v", p, err)
		}
	}
	for {
		if _, err := stream.Recv(); err != nil {
			expect(t, err, codes.Unavailable, "")
			break
		}
	}
	if code := node.waitExit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, node.said())
	}

	node.start()
	broker := node.connect(t)
	for _, messages := range acknowledged {
		for id, body := range messages {
			if got, err := broker.fetch(t, "stop", id); err != nil || got != body {
				t.Fatalf("acknowledged message %d: %q, %v, expected %q", id, got, err, body)
			}
		}
	}
}

func TestKillLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	node := startNode(t)
	broker := node.connect(t)
	for i := range 300 {
		broker.publish(t, fmt.Sprintf("crash-%d", i%7), fmt.Sprint(i), 600)
	}
	node.kill()
	node.start()
	broker = node.connect(t)
	for i := range 300 {
		if got, err := broker.fetch(t, fmt.Sprintf("crash-%d", i%7), int32(i/7+1)); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("message %d: %q, %v", i, got, err)
		}
	}
}
