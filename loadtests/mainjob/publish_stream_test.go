package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"walcast.example/mainjob/brokerpb"
)

// dial starts the broker of BROKER_BIN and connects a client that knows nothing but today's proto.
func dial(t *testing.T) (context.Context, *broker, brokerpb.BrokerClient) {
	t.Helper()
	binary := os.Getenv("BROKER_BIN")
	if binary == "" {
		t.Fatal("BROKER_BIN is not set; give the path of the broker, for example target/debug/walcast")
	}
	addresses := [2]string{}
	for n := range addresses {
		address, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		addresses[n] = address
	}
	b := &broker{binary: binary, dir: t.TempDir(), listen: addresses[0], admin: addresses[1]}
	if _, err := b.start(); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+b.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if b.cmd.ProcessState == nil {
			if err := b.stop(); err != nil {
				t.Errorf("stopping the broker: %v", err)
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx, b, brokerpb.NewBrokerClient(conn)
}

func TestAnswersComeInOrderAndEveryMessageIsThere(t *testing.T) {
	const messages = 50_000
	ctx, _, client := dial(t)
	stream, err := client.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	body := func(n int) []byte { return fmt.Appendf(nil, "message %d", n) }
	subject := func(n int) string { return fmt.Sprintf("subject-%d", n%7) }
	go func() {
		defer stream.CloseSend()
		for n := range messages {
			request := &brokerpb.PublishRequest{Subject: subject(n), Body: body(n), ExpirationSeconds: 600}
			if n%1000 == 999 {
				request.Subject = "" // refused, in its place
			}
			if stream.Send(request) != nil {
				return
			}
		}
	}()
	ids := make([]int32, messages)
	next := map[string]int32{}
	for n := range messages {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %d answers: %v", n, err)
		}
		if n%1000 == 999 {
			if e := answer.Error; e == nil || codes.Code(e.Code) != codes.InvalidArgument || e.Reason != "INVALID_SUBJECT" || e.Metadata["field"] != "subject" {
				t.Fatalf("request %d: %v", n, answer)
			}
			continue
		}
		next[subject(n)]++
		if ids[n] = answer.Id; answer.Error != nil || answer.Id != next[subject(n)] {
			t.Fatalf("request %d: %v, expected id %d", n, answer, next[subject(n)])
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last answer: %v", err)
	}
	for n := 0; n < messages; n += 997 {
		fetched, err := client.Fetch(ctx, &brokerpb.FetchRequest{Subject: subject(n), Id: ids[n]})
		if err != nil || string(fetched.Body) != string(body(n)) {
			t.Fatalf("fetch of message %d: %v, %v", n, fetched, err)
		}
	}
}

func TestAClientThatDoesNotReceiveIsStoppedAndGoesOnWhenItDoes(t *testing.T) {
	ctx, _, client := dial(t)
	stream, err := client.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan int, 10_000_000)
	stop := make(chan struct{})
	go func() {
		defer close(sent)
		defer stream.CloseSend()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if stream.Send(&brokerpb.PublishRequest{Subject: "s", Body: make([]byte, 1024)}) != nil {
				return
			}
			sent <- n
		}
	}()
	for before := -1; len(sent) != before; time.Sleep(500 * time.Millisecond) {
		before = len(sent)
	}
	// Others go on meanwhile, also on the same connection.
	for range 100 {
		if _, err := client.Publish(ctx, &brokerpb.PublishRequest{Subject: "other"}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	for id := int32(1); ; id++ {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if count := int32(len(sent)); id-1 < count {
				t.Fatalf("%d of %d were answered", id-1, count)
			}
			return
		}
		if err != nil || answer.Id != id {
			t.Fatalf("answer %d: %v, %v", id, answer, err)
		}
	}
}

func TestAStopEndsTheStreamAfterItsAnswers(t *testing.T) {
	ctx, b, client := dial(t)
	stream, err := client.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for stream.Send(&brokerpb.PublishRequest{Subject: "s", Body: []byte("x"), ExpirationSeconds: 600}) == nil {
		}
	}()
	stopped := make(chan error)
	for id := int32(1); ; id++ {
		answer, err := stream.Recv()
		if err != nil {
			if status.Code(err) != codes.Unavailable || id < 1000 {
				t.Fatalf("after %d answers: %v", id-1, err)
			}
			break
		}
		if answer.Id != id {
			t.Fatalf("answer %d: %v", id, answer)
		}
		if id == 1000 {
			go func() { stopped <- b.stop() }()
		}
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}
