package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"walcast.example/mainjob/brokerpb"
)

const neverPublished = "message with id provided is not valid or never published"

var seed = maphash.MakeSeed()

func hash(body []byte) uint64 { return maphash.Bytes(seed, body) }

// stored is what the broker holds under one id.
type stored struct {
	token token
	hash  uint64
	at    time.Time // published_at
}

// history is everything the broker holds: messages by subject, the one with id n at place n - 1.
type history map[string][]stored

// fetchAll reads every subject from id 1 until the broker says "never published". Anything else that is not a
// message is a violation: the ids are dense and nothing has expired.
func fetchAll(server string, o options, lines []string, v *violations) (history, error) {
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := brokerpb.NewBrokerClient(conn)
	all := history{}
	var lock sync.Mutex
	var group sync.WaitGroup
	numbers := make(chan int)
	failures := make(chan error, o.users)
	for range o.users {
		group.Go(func() {
			for number := range numbers {
				subject := fmt.Sprintf("lines.%d", number)
				messages, err := fetchSubject(client, subject, o, lines, v)
				if err != nil {
					failures <- err
					return
				}
				lock.Lock()
				all[subject] = messages
				lock.Unlock()
			}
		})
	}
	for number := range o.subjects {
		select {
		case numbers <- number:
		case err := <-failures:
			close(numbers)
			return nil, err
		}
	}
	close(numbers)
	group.Wait()
	select {
	case err := <-failures:
		return nil, err
	default:
		return all, nil
	}
}

func fetchSubject(c brokerpb.BrokerClient, subject string, o options, lines []string, v *violations) ([]stored, error) {
	var messages []stored
	for id := int32(1); ; id++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		message, err := c.Fetch(ctx, &brokerpb.FetchRequest{Subject: subject, Id: id})
		cancel()
		switch answer := status.Convert(err); {
		case err == nil:
		case answer.Message() == neverPublished:
			return messages, nil
		case answer.Code() == codes.InvalidArgument:
			v.add("missing", "%s %d: %s", subject, id, answer.Message())
			messages = append(messages, stored{token: token{-1, -1}})
			continue
		default:
			return nil, fmt.Errorf("fetch %s %d: %w", subject, id, err)
		}
		var t token
		_, scanError := fmt.Sscanf(string(message.Body), "%d.%d ", &t.number, &t.attempt)
		if scanError != nil || t.number < 0 || t.number >= o.messages || t.number%o.subjects != index(subject) ||
			string(message.Body) != bodyOf(t, lines) {
			v.add("altered", "%s %d holds %q", subject, id, message.Body)
			t = token{-1, -1}
		}
		messages = append(messages, stored{t, hash(message.Body), message.PublishedAt.AsTime()})
	}
}

// bodyOf must stay what publish.js makes.
func bodyOf(t token, lines []string) string {
	return fmt.Sprintf("%d.%d %s", t.number, t.attempt, lines[t.number%len(lines)])
}

func index(subject string) int {
	var number int
	if _, err := fmt.Sscanf(subject, "lines.%d", &number); err != nil {
		return -1
	}
	return number
}

// checkAcks compares what the publisher was told with what is there. Returns how many came back as they were
// published, and how many attempts without an answer turned out to be there.
func (h history) checkAcks(acks []ack, unknown map[token]bool, v *violations) (fetchedBack, unknownFound int) {
	type place struct {
		subject string
		id      int32
	}
	given, known := map[place]bool{}, map[token]bool{}
	for _, a := range acks {
		at := place{a.subject, a.id}
		if given[at] {
			v.add("ids given twice", "%s %d", a.subject, a.id)
		}
		given[at], known[a.token] = true, true
		if a.id < 1 || int(a.id) > len(h[a.subject]) || h[a.subject][a.id-1].token != a.token {
			v.add("lost", "%s %d, message %d attempt %d", a.subject, a.id, a.token.number, a.token.attempt)
		} else {
			fetchedBack++
		}
	}
	seen := map[token]bool{}
	for subject, messages := range h {
		for place, m := range messages {
			switch {
			case m.token.number < 0: // counted when it was fetched
			case seen[m.token]:
				v.add("stored twice", "%s %d, message %d", subject, place+1, m.token.number)
			case unknown[m.token]:
				unknownFound++
			case !known[m.token]:
				v.add("invented", "%s %d, message %d", subject, place+1, m.token.number)
			}
			seen[m.token] = true
		}
	}
	return fetchedBack, unknownFound
}

// checkStream looks at what one subscriber saw: ids without gap or repeat, only what is there, and everything
// that the broker took after the subscriber had its headers (when toTheEnd; else a kill cut the stream short).
func (h history) checkStream(s *stream, toTheEnd bool, v *violations) {
	messages := h[s.subject]
	due := h.firstAfter(s)
	next := due
	for i, d := range s.deliveries {
		switch {
		case i == 0 && d.id > due, i > 0 && d.id > next:
			v.add("gaps", "%s: %d instead of %d", s.subject, d.id, next)
		case i > 0 && d.id < next:
			v.add("repeats", "%s: %d instead of %d", s.subject, d.id, next)
		}
		next = d.id + 1
		if d.id < 1 || int(d.id) > len(messages) || messages[d.id-1].hash != d.hash {
			v.add("delivered but not there", "%s %d", s.subject, d.id)
		}
	}
	if toTheEnd && int(next) <= len(messages) {
		v.add("gaps", "%s: nothing after %d of %d", s.subject, next-1, len(messages))
	}
}

// firstAfter is the id of the first message that the broker took after the stream had its headers: it must have
// been delivered. The broker's clock is this machine's. One beyond the last id if there is none.
func (h history) firstAfter(s *stream) int32 {
	for place, m := range h[s.subject] {
		if m.at.After(s.subscribedAt) {
			return int32(place + 1)
		}
	}
	return int32(len(h[s.subject]) + 1)
}

// due is the last id each stream has to see; 0 where nothing was published after its headers.
func (h history) due(l *listeners) []int32 {
	last := make([]int32, len(l.streams))
	for i, s := range l.streams {
		if end := int32(len(h[s.subject])); h.firstAfter(s) <= end {
			last[i] = end
		}
	}
	return last
}
