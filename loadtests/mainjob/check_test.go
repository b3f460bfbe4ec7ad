package main

import (
	"testing"
	"time"
)

// Each promise broken on purpose, once: the checker must name it.

var taken = time.Unix(1_000_000, 0)

// five messages on one subject; the subscriber had its headers between the second and the third.
func scene(ids ...int32) (history, *stream) {
	h := history{"lines.0": nil}
	for n := range 5 {
		at := taken.Add(time.Duration(n) * time.Second)
		h["lines.0"] = append(h["lines.0"], stored{token{n, 0}, uint64(n + 1), at})
	}
	s := &stream{subject: "lines.0", subscribedAt: taken.Add(1500 * time.Millisecond)}
	for _, id := range ids {
		s.deliveries = append(s.deliveries, delivery{id, uint64(id)})
	}
	return h, s
}

func count() *violations {
	return &violations{counts: map[string]int{}, examples: map[string][]string{}}
}

func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		ids      []int32
		toTheEnd bool
		expected string
	}{
		"all after the headers":           {[]int32{3, 4, 5}, true, ""},
		"one that raced with the headers": {[]int32{2, 3, 4, 5}, true, ""},
		"cut short by the kill":           {[]int32{3}, false, ""},
		"nothing before the kill":         {nil, false, ""},
		"the first is missing":            {[]int32{4, 5}, true, "gaps"},
		"one in the middle is missing":    {[]int32{3, 5}, true, "gaps"},
		"the last is missing":             {[]int32{3, 4}, true, "gaps"},
		"nothing at all":                  {nil, true, "gaps"},
		"one came twice":                  {[]int32{3, 3, 4, 5}, true, "repeats"},
		"beyond the end":                  {[]int32{3, 4, 5, 6}, true, "delivered but not there"},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := scene(c.ids...)
			v := count()
			h.checkStream(s, c.toTheEnd, v)
			if c.expected == "" && len(v.counts) > 0 || c.expected != "" && v.counts[c.expected] != 1 {
				t.Errorf("got %v, expected one of %q", v.counts, c.expected)
			}
		})
	}
}

func TestADeliveryWithAnotherBody(t *testing.T) {
	h, s := scene(3, 4, 5)
	s.deliveries[1].hash = 99
	v := count()
	h.checkStream(s, true, v)
	if v.counts["delivered but not there"] != 1 {
		t.Errorf("got %v", v.counts)
	}
}

func TestAcknowledgements(t *testing.T) {
	acks := func() []ack {
		var all []ack
		for n := range 5 {
			all = append(all, ack{"lines.0", int32(n + 1), token{n, 0}})
		}
		return all
	}
	for name, c := range map[string]struct {
		change   func(history, *[]ack)
		expected string
	}{
		"all there":                {func(history, *[]ack) {}, ""},
		"the last is lost":         {func(h history, _ *[]ack) { h["lines.0"] = h["lines.0"][:4] }, "lost"},
		"another message is there": {func(h history, _ *[]ack) { h["lines.0"][2].token = token{77, 0} }, "lost"},
		"nobody published it":      {func(_ history, a *[]ack) { *a = (*a)[:4] }, "invented"},
		"an id for two": {func(_ history, a *[]ack) {
			*a = append(*a, ack{"lines.0", 5, token{4, 0}})
		}, "ids given twice"},
		"a message under two ids": {func(h history, _ *[]ack) {
			h["lines.0"] = append(h["lines.0"], stored{token: token{4, 0}})
		}, "stored twice"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := scene()
			all := acks()
			c.change(h, &all)
			v := count()
			h.checkAcks(all, map[token]bool{}, v)
			if c.expected == "" && len(v.counts) > 0 || c.expected != "" && v.counts[c.expected] != 1 {
				t.Errorf("got %v, expected one of %q", v.counts, c.expected)
			}
		})
	}
}
