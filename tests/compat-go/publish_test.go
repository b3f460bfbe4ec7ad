package compat

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"walcast.example/compat/brokerpb"
)

const mebibyte = 1 << 20

func TestIdsAreDensePerSubjectFromOne(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for id := int32(1); id <= 20; id++ {
		for _, subject := range []string{"orders", "Ünïcode ✓", strings.Repeat("ß", 127) + "x"} {
			if got := broker.publish(t, subject, "body", 60); got != id {
				t.Errorf("%q got id %d, expected %d", subject, got, id)
			}
		}
	}
}

func TestBodiesComeBackByteForByte(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, body := range []string{"", "\x00", string(every), string(bytes.Repeat(every, mebibyte/256))} {
		stream := broker.subscribe(t, "bodies")
		id := broker.publish(t, "bodies", body, 60)
		if got, err := broker.fetch(t, "bodies", id); err != nil || got != body {
			t.Errorf("fetch of %d bytes: %d bytes, %v", len(body), len(got), err)
		}
		if got := receive(t, stream); got != body {
			t.Errorf("delivery of %d bytes: %d bytes", len(body), len(got))
		}
	}
}

func TestRefusedPublishesNameTheRuleAndTakeNoId(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	cases := map[string]struct {
		request *brokerpb.PublishRequest
		field   string
	}{
		"negative expiration": {&brokerpb.PublishRequest{Subject: "s", ExpirationSeconds: -1}, "expirationSeconds"},
		"empty request":       {&brokerpb.PublishRequest{}, "subject"},
		"256 bytes":           {&brokerpb.PublishRequest{Subject: strings.Repeat("s", 256)}, "subject"},
		"line feed":           {&brokerpb.PublishRequest{Subject: "a\nb"}, "subject"},
		"NUL":                 {&brokerpb.PublishRequest{Subject: "\x00"}, "subject"},
		"C1 control":          {&brokerpb.PublishRequest{Subject: "a\u0085b"}, "subject"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := broker.Publish(wait(t), c.request)
			expect(t, err, codes.InvalidArgument, c.field)
		})
	}
	if id := broker.publish(t, "s", "first", 60); id != 1 {
		t.Errorf("a refused publish took an id: the first message has %d", id)
	}
	broker.stillUsable(t)
}

func TestBodiesOverTheLimitAreRefusedAndTheConnectionStaysUsable(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for _, size := range []int{mebibyte + 1, 3 * mebibyte, 5 * mebibyte, 32 * mebibyte} {
		_, err := broker.Publish(wait(t), &brokerpb.PublishRequest{Subject: "big", Body: make([]byte, size)})
		expect(t, err, codes.ResourceExhausted, "")
	}
	if id := broker.publish(t, "big", strings.Repeat("x", mebibyte), 60); id != 1 {
		t.Errorf("a refused publish took an id: the first message has %d", id)
	}
	broker.stillUsable(t)
}

// rawCodec sends bytes as they are, under the name of the ordinary codec.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }

func TestBytesThatAreNoRequestAreTheClientsMistake(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	for name, raw := range map[string][]byte{
		"not protobuf":         {0xff, 0xff, 0xff, 0xff},
		"cut short":            {0x0a, 0x10, 'a'},
		"subject is not UTF-8": {0x0a, 0x02, 0xc3, 0x28},
		"wrong wire type":      {0x08, 0x01},
	} {
		for _, method := range []string{"Publish", "Fetch"} {
			t.Run(method+" "+name, func(t *testing.T) {
				var answer []byte
				err := broker.conn.Invoke(wait(t), "/broker.Broker/"+method, &raw, &answer, grpc.ForceCodec(rawCodec{}))
				expect(t, err, codes.InvalidArgument, "")
			})
		}
	}
	broker.stillUsable(t)
}

func TestUnknownMethodsAreUnimplemented(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	err := broker.conn.Invoke(wait(t), "/broker.Broker/Nothing", &brokerpb.FetchRequest{}, &brokerpb.MessageResponse{})
	expect(t, err, codes.Unimplemented, "")
	broker.stillUsable(t)
}

func TestDeadlinesInThePastDoNoHarm(t *testing.T) {
	t.Parallel()
	broker := startNode(t).connect(t)
	broker.publish(t, "warm", "connection", 0)
	for range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Microsecond)
		_, err := broker.Publish(ctx, &brokerpb.PublishRequest{Subject: "late", Body: []byte("late")})
		cancel()
		if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded && code != codes.Canceled {
			t.Errorf("got %v", err)
		}
	}
	broker.stillUsable(t)
}
