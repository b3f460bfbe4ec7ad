// Mainjob is the broker's whole promise in one run: k6 publishes the lines of a real text over many subjects
// while subscribers listen, the broker is killed with SIGKILL in the middle and started again, and afterwards
// everything that was acknowledged, stored and delivered is compared. It prints the counts; 1 means a violation.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

type options struct {
	binary, root, k6        string
	messages, subjects      int
	subscribers, perSubject int
	users                   int
	killAt, rememberAt      float64 // parts of the messages
	loseLog                 bool
	keep                    bool
}

// violations counts what must not happen, and keeps the first examples of each kind.
type violations struct {
	lock     sync.Mutex
	counts   map[string]int
	examples map[string][]string
}

const examplesShown = 3

func (v *violations) add(kind, format string, values ...any) {
	v.lock.Lock()
	defer v.lock.Unlock()
	v.counts[kind]++
	if len(v.examples[kind]) < examplesShown {
		v.examples[kind] = append(v.examples[kind], fmt.Sprintf(format, values...))
	}
}

func main() {
	var o options
	flag.StringVar(&o.binary, "bin", "target/release/walcast", "the broker")
	flag.StringVar(&o.root, "root", ".", "the repository: its sources are the text")
	flag.StringVar(&o.k6, "k6", "target/services/venv/bin/k6", "k6")
	flag.IntVar(&o.messages, "messages", 100_000, "messages to publish")
	flag.IntVar(&o.subjects, "subjects", 1_000, "subjects they are spread over")
	flag.IntVar(&o.subscribers, "subscribers", 100, "subscribers, each on a connection of its own")
	flag.IntVar(&o.perSubject, "per-subject", 2, "subscribers of each subject")
	flag.IntVar(&o.users, "users", 32, "publishers of k6, and fetches at a time afterwards")
	flag.Float64Var(&o.killAt, "kill-at", 0.5, "part of the messages acknowledged when the broker is killed")
	flag.BoolVar(&o.loseLog, "lose-log", false, "negative control: restart with an older data directory")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory of the run")
	flag.Parse()
	o.rememberAt = o.killAt / 2
	// k6 looks for files beside its script, so every path is made absolute.
	for _, path := range []*string{&o.binary, &o.root, &o.k6} {
		if absolute, err := filepath.Abs(*path); err == nil {
			*path = absolute
		}
	}
	clean, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "main job:", err)
		os.Exit(2)
	}
	if !clean {
		os.Exit(1)
	}
}

func run(o options) (clean bool, err error) {
	dir, err := os.MkdirTemp("", "walcast-main-job.")
	if err != nil {
		return false, err
	}
	defer func() {
		if o.keep || err != nil {
			fmt.Println("the directory of the run is", dir)
		} else {
			_ = os.RemoveAll(dir)
		}
	}()
	lines, err := text(o.root)
	if err != nil {
		return false, err
	}
	b := &broker{binary: o.binary, dir: dir}
	if b.listen, err = freeAddress(); err != nil {
		return false, err
	}
	if b.admin, err = freeAddress(); err != nil {
		return false, err
	}
	if _, err := b.start(); err != nil {
		return false, err
	}
	before, err := listen(b.listen, o.subscribers, o.subjects, o.perSubject)
	if err != nil {
		return false, err
	}
	begun := time.Now()
	p, err := startPublisher(o, b.listen, dir, lines)
	if err != nil {
		return false, err
	}
	finished := make(chan error, 1)
	go func() { finished <- p.cmd.Wait() }()

	ready, err := crash(o, b, p, before, finished)
	if err != nil {
		return false, err
	}
	after, err := listen(b.listen, o.subscribers, o.subjects, o.perSubject)
	if err != nil {
		return false, err
	}
	if err := <-finished; err != nil {
		return false, fmt.Errorf("k6 did not get every message acknowledged: %w; its output is %s/k6.log", err, dir)
	}
	took := time.Since(begun)
	return report(o, b, p, lines, before, after, ready, took)
}

// crash waits until enough is acknowledged, kills the broker and starts it again.
func crash(o options, b *broker, p *publisher, before *listeners, finished chan error) (time.Duration, error) {
	remembered := !o.loseLog
	for {
		acks := p.acknowledged()
		if !remembered && float64(acks) >= o.rememberAt*float64(o.messages) {
			remembered = true
			if err := b.remember(); err != nil {
				return 0, err
			}
		}
		if float64(acks) >= o.killAt*float64(o.messages) {
			break
		}
		select {
		case err := <-finished:
			return 0, fmt.Errorf("k6 ended before the kill, after %d of %d: %v", acks, o.messages, err)
		case err := <-b.exited:
			return 0, fmt.Errorf("the broker ended by itself: %v; its output is in %s", err, filepath.Join(b.dir, "broker.log"))
		case <-time.After(2 * time.Millisecond):
		}
	}
	for _, s := range before.streams {
		select {
		case <-s.done:
			return 0, fmt.Errorf("the subscription to %s ended before the kill: %v", s.subject, s.end)
		default:
		}
	}
	b.kill()
	before.wait()
	if o.loseLog {
		if err := b.forget(); err != nil {
			return 0, err
		}
	}
	return b.start()
}

func report(o options, b *broker, p *publisher, lines []string, before, after *listeners,
	ready, took time.Duration) (bool, error) {
	v := &violations{counts: map[string]int{}, examples: map[string][]string{}}
	acks, unknown, err := p.answers(b.dir)
	if err != nil {
		return false, err
	}
	begun := time.Now()
	all, err := fetchAll(b.listen, o, lines, v)
	if err != nil {
		return false, err
	}
	fetching := time.Since(begun)
	after.waitFor(all.due(after), 30*time.Second)
	for _, s := range after.streams {
		select {
		case <-s.done:
			v.add("streams ended early", "%s: %v", s.subject, s.end)
		default:
		}
	}
	after.close()
	if err := b.stop(); err != nil {
		v.add("no orderly stop", "%v", err)
	}

	fetchedBack, unknownFound := all.checkAcks(acks, unknown, v)
	total := 0
	for _, messages := range all {
		total += len(messages)
	}
	delivered := [2]int{}
	for life, l := range []*listeners{before, after} {
		for _, s := range l.streams {
			delivered[life] += len(s.deliveries)
			all.checkStream(s, life == 1, v)
		}
	}

	row := func(name, format string, values ...any) {
		fmt.Printf("%-26s %s\n", name, fmt.Sprintf(format, values...))
	}
	row("text", "%d lines of this repository", len(lines))
	row("published", "%d messages in %d attempts on %d subjects, %.1f s", o.messages, len(acks)+len(unknown), o.subjects, took.Seconds())
	row("killed with SIGKILL", "after %.0f %% of them, ready again in %d ms", 100*o.killAt, ready.Milliseconds())
	row("acknowledged", "%d", len(acks))
	row("unknown (no answer)", "%d, of which %d are there", len(unknown), unknownFound)
	row("fetched back byte for byte", "%d of %d acknowledged, %d ids in all, %.1f s", fetchedBack, len(acks), total, fetching.Seconds())
	row("subscribers", "%d with %d subscriptions", o.subscribers, len(before.streams))
	row("deliveries", "%d before the kill, %d after the restart", delivered[0], delivered[1])
	return v.print(row, delivered), nil
}

// print shows every kind of violation with its count, also when it is 0, and says whether all of them are.
func (v *violations) print(row func(string, string, ...any), delivered [2]int) bool {
	if delivered[0] == 0 || delivered[1] == 0 {
		v.add("nothing delivered", "before the kill %d, after it %d", delivered[0], delivered[1])
	}
	kinds := []string{"lost", "altered", "missing", "invented", "stored twice", "ids given twice", "gaps", "repeats",
		"delivered but not there"}
	for kind := range v.counts {
		known := false
		for _, k := range kinds {
			known = known || k == kind
		}
		if !known {
			kinds = append(kinds, kind)
		}
	}
	sort.Strings(kinds[9:])
	sum := 0
	for _, kind := range kinds {
		sum += v.counts[kind]
		row(kind, "%d", v.counts[kind])
		for _, example := range v.examples[kind] {
			row("", "%s", example)
		}
	}
	if sum == 0 {
		row("result", "every promise kept")
	} else {
		row("result", "%d violations", sum)
	}
	return sum == 0
}
