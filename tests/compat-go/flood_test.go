package compat

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"walcast.example/compat/brokerpb"
)

func TestTwentyThousandConcurrentCallsOnOneConnection(t *testing.T) {
	t.Parallel()
	const calls = 20_000
	broker := startNode(t).connect(t)
	broker.publish(t, "warm", "connection", 0)
	ids, failures := make([]int32, calls), make([]error, calls)
	var start, done sync.WaitGroup
	start.Add(1)
	ctx := wait(t)
	for i := range calls {
		done.Go(func() {
			start.Wait()
			answer, err := broker.Publish(ctx, &brokerpb.PublishRequest{Subject: "flood", Body: []byte(fmt.Sprint(i))})
			ids[i], failures[i] = answer.GetId(), err
		})
	}
	start.Done()
	done.Wait()
	for i, err := range failures {
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	slices.Sort(ids)
	for i, id := range ids {
		if id != int32(i+1) {
			t.Fatalf("the ids are not dense: %d at place %d", id, i+1)
		}
	}
	broker.stillUsable(t)
}

func TestThousandsOfSubscriptionsThatAreNeverRead(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	random := rand.New(rand.NewPCG(7, 7))
	word := func() string {
		letters := make([]byte, 4)
		for i := range letters {
			letters[i] = byte('a' + random.IntN(26))
		}
		return string(letters)
	}
	var words []string
	for range 2_500 {
		words = append(words, word())
		broker.subscribe(t, words[len(words)-1])
		broker.subscribe(t, "popular")
	}
	// More than the 64 KiB window of a stream that nobody reads: 100 x 1 KiB to each of 2,500 subscribers.
	body := string(make([]byte, 1024))
	for i := range 100 {
		broker.publish(t, "popular", body, 0)
		broker.publish(t, words[i], body, 0)
	}
	reader := broker.subscribe(t, "popular")
	broker.publish(t, "popular", "read this", 0)
	if got := receive(t, reader); got != "read this" {
		t.Errorf("a subscriber that does read got %d bytes", len(got))
	}
	broker.stillUsable(t)
}

func TestPublishSubscribeAndFetchRaceOnOneSubject(t *testing.T) {
	t.Parallel()
	const publishers, each = 8, 200
	node := startNode(t)
	var group sync.WaitGroup
	stream := node.connect(t).subscribe(t, "race")
	for p := range publishers {
		broker := node.connect(t)
		group.Go(func() {
			for i := range each {
				body := fmt.Sprintf("%d/%d", p, i)
				answer, err := broker.Publish(t.Context(), &brokerpb.PublishRequest{
					Subject: "race", Body: []byte(body), ExpirationSeconds: 600})
				if err != nil {
					t.Errorf("publish %s: %v", body, err)
					return
				}
				got, err := broker.Fetch(t.Context(), &brokerpb.FetchRequest{Subject: "race", Id: answer.Id})
				if err != nil || string(got.Body) != body {
					t.Errorf("fetch %d: %q, %v, expected %q", answer.Id, got.GetBody(), err, body)
				}
			}
		})
	}
	seen := map[string]bool{}
	last := make([]int, publishers)
	for range publishers * each {
		body := receive(t, stream)
		var p, i int
		if _, err := fmt.Sscanf(body, "%d/%d", &p, &i); err != nil || seen[body] || i != last[p] {
			t.Fatalf("unexpected delivery %q (again: %v, %v)", body, seen[body], err)
		}
		seen[body], last[p] = true, i+1
	}
	group.Wait()
}
