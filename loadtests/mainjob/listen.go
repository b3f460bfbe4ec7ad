package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"walcast.example/mainjob/brokerpb"
)

// delivery is what a subscriber saw: enough to compare, small enough to keep all of them.
type delivery struct {
	id   int32
	hash uint64
}

// stream is one subscription. Its fields belong to its own task until listeners.wait returned.
type stream struct {
	subject      string
	subscribedAt time.Time // when the response headers were there
	deliveries   []delivery
	lastID       atomic.Int32
	end          error // why it ended, once done is closed
	done         chan struct{}
}

// listeners are all subscribers of one life of the broker: a connection each, several subjects on it.
type listeners struct {
	streams []*stream
	conns   []*grpc.ClientConn
	cancel  context.CancelFunc
	group   sync.WaitGroup
}

// listen returns once every subscription has its response headers. Each subject has `each` subscribers.
func listen(server string, subscribers, subjects, each int) (*listeners, error) {
	ctx, cancel := context.WithCancel(context.Background())
	all := &listeners{cancel: cancel}
	total := subjects * each
	for s := range subscribers {
		conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		all.conns = append(all.conns, conn)
		for number := s * total / subscribers; number < (s+1)*total/subscribers; number++ {
			if err := all.open(ctx, conn, fmt.Sprintf("lines.%d", number%subjects)); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (l *listeners) open(ctx context.Context, conn *grpc.ClientConn, subject string) error {
	call, err := brokerpb.NewBrokerClient(conn).Subscribe(ctx, &brokerpb.SubscribeRequest{Subject: subject})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if _, err := call.Header(); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	s := &stream{subject: subject, subscribedAt: time.Now(), done: make(chan struct{})}
	l.streams = append(l.streams, s)
	l.group.Go(func() {
		defer close(s.done)
		for {
			message, err := call.Recv()
			if err != nil {
				s.end = err
				return
			}
			s.deliveries = append(s.deliveries, delivery{message.Id, hash(message.Body)})
			s.lastID.Store(message.Id)
		}
	})
	return nil
}

// wait returns when every stream has ended by itself.
func (l *listeners) wait() {
	l.group.Wait()
	l.close()
}

// waitFor returns when each stream has seen the last id it has to see, or after the patience is over.
func (l *listeners) waitFor(due []int32, patience time.Duration) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		behind := 0
		for i, s := range l.streams {
			if s.lastID.Load() < due[i] {
				behind++
			}
		}
		if behind == 0 {
			return
		}
	}
}

// close hangs up and waits for the tasks.
func (l *listeners) close() {
	l.cancel()
	l.group.Wait()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}
