package compat

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"

	"walcast.example/compat/brokerpb"
)

func TestHeadersMeanSubscribed(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for i := range 100 {
		subject, body := fmt.Sprintf("headers-%d", i), fmt.Sprint(i)
		stream := broker.subscribe(t, subject)
		broker.publish(t, subject, body, 0)
		if got := receive(t, stream); got != body {
			t.Fatalf("got %q, expected %q", got, body)
		}
	}
}

func TestFiftyMessagesBeforeTheSubscriberReads(t *testing.T) {
	t.Parallel()
	node := startNode(t)
	subscriber, publisher := node.connect(t), node.connect(t)
	stream := subscriber.subscribe(t, "fifty")
	for i := range 50 {
		publisher.publish(t, "fifty", fmt.Sprint(i), 0)
	}
	for i := range 50 {
		if got := receive(t, stream); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

func TestEarlierMessagesAreNotDelivered(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	broker.publish(t, "earlier", "before", 600)
	stream := broker.subscribe(t, "earlier")
	broker.publish(t, "another", "elsewhere", 600)
	broker.publish(t, "earlier", "after", 600)
	if got := receive(t, stream); got != "after" {
		t.Errorf("the first delivery is %q", got)
	}
}

func TestEverySubscriberGetsEachMessageOnceInOrder(t *testing.T) {
	t.Parallel()
	node := startNode(t)
	publisher := node.connect(t)
	var streams []brokerpb.Broker_SubscribeClient
	for range 20 {
		streams = append(streams, node.connect(t).subscribe(t, "fan"))
	}
	for i := range 500 {
		publisher.publish(t, "fan", fmt.Sprint(i), 0)
	}
	for number, stream := range streams {
		for i := range 500 {
			if got := receive(t, stream); got != fmt.Sprint(i) {
				t.Fatalf("subscriber %d: message %d is %q", number, i, got)
			}
		}
	}
}

func TestSubscribersThatLeaveDoNotDisturbTheOthers(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	stays := broker.subscribe(t, "leaving")
	for i := range 50 {
		ctx, cancel := context.WithCancel(wait(t))
		leaves, err := broker.Subscribe(ctx, &brokerpb.SubscribeRequest{Subject: "leaving"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaves.Header(); err != nil {
			t.Fatal(err)
		}
		cancel()
		broker.publish(t, "leaving", fmt.Sprint(i), 0)
		if got := receive(t, stays); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
	broker.stillUsable(t)
}

func TestSubscribeRefusesInvalidSubjects(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for _, subject := range []string{"", "a\nb", "\u0085"} {
		stream, err := broker.Subscribe(wait(t), &brokerpb.SubscribeRequest{Subject: subject})
		if err == nil {
			_, err = stream.Recv()
		}
		expect(t, err, codes.InvalidArgument, "subject")
	}
	broker.stillUsable(t)
}
