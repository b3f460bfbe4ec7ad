package compat

import (
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"walcast.example/compat/brokerpb"
)

// The texts by which existing clients tell the cases apart.
const (
	neverPublished = "message with id provided is not valid or never published"
	expired        = "message with id provided is expired"
)

func expectFetch(t *testing.T, broker *client, subject string, id int32, text, reason string) {
	t.Helper()
	_, err := broker.fetch(t, subject, id)
	answer := status.Convert(err)
	if answer.Code() != codes.InvalidArgument || answer.Message() != text {
		t.Errorf("fetch %s %d: %v %q, expected INVALID_ARGUMENT %q", subject, id, answer.Code(), answer.Message(), text)
	}
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Reason == reason {
			return
		}
	}
	t.Errorf("fetch %s %d: no ErrorInfo with reason %s in %v", subject, id, reason, answer.Details())
}

func TestFetchTellsNeverPublishedFromExpired(t *testing.T) {
	t.Parallel()
	node := startNode(t)
	broker := node.connect(t)
	broker.publish(t, "kept", "kept", 600)
	broker.publish(t, "forgotten", "fire and forget", 0)
	check := func(t *testing.T, broker *client) {
		if body, err := broker.fetch(t, "kept", 1); err != nil || body != "kept" {
			t.Errorf("fetch of a kept message: %q, %v", body, err)
		}
		for _, id := range []int32{0, -1, -2147483648, 2, 2147483647} {
			expectFetch(t, broker, "kept", id, neverPublished, "NEVER_PUBLISHED")
		}
		expectFetch(t, broker, "unheard-of", 1, neverPublished, "NEVER_PUBLISHED")
		expectFetch(t, broker, "forgotten", 1, expired, "EXPIRED")
		expectFetch(t, broker, "forgotten", 2, neverPublished, "NEVER_PUBLISHED")
	}
	t.Run("live", func(t *testing.T) { check(t, broker) })

	node.kill()
	node.start()
	restarted := node.connect(t)
	t.Run("after a crash", func(t *testing.T) { check(t, restarted) })
	if id := restarted.publish(t, "forgotten", "next", 0); id != 2 {
		t.Errorf("ids go on at %d after a crash, expected 2", id)
	}
}

func TestFetchAfterExpiry(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	id := broker.publish(t, "short", "short-lived", 1)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		_, err := broker.fetch(t, "short", id)
		if err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still there %v after its second was over", patience)
		}
	}
	expectFetch(t, broker, "short", id, expired, "EXPIRED")
}

func TestFetchFindsYourOwnWriteAtOnce(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for i := range 500 {
		body := string(rune('a' + i%26))
		id := broker.publish(t, "own", body, 600)
		if got, err := broker.fetch(t, "own", id); err != nil || got != body {
			t.Fatalf("own write %d: %q, %v", id, got, err)
		}
	}
}

func TestFetchRefusesInvalidSubjects(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	_, err := broker.Fetch(wait(t), &brokerpb.FetchRequest{})
	expect(t, err, codes.InvalidArgument, "")
	_, err = broker.Fetch(wait(t), &brokerpb.FetchRequest{Subject: "a\tb", Id: 1})
	expect(t, err, codes.InvalidArgument, "subject")
	broker.stillUsable(t)
}
