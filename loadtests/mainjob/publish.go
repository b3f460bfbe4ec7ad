package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"
)

// token names one attempt to publish one message.
type token struct{ number, attempt int }

// ack is what the publisher was told.
type ack struct {
	subject string
	id      int32
	token   token
}

// publisher is k6 with publish.js.
type publisher struct {
	cmd     *exec.Cmd
	console string
	counted int64 // bytes of the console already counted
	acks    int
}

// text returns the lines of the repository's own sources.
func text(root string) ([]string, error) {
	var lines []string
	for _, folder := range []string{"src", "tests", "benches", "loadtests", "docs", "proto"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return nil // a folder that is not there has no lines
			}
			switch filepath.Ext(path) {
			case ".rs", ".go", ".js", ".md", ".proto", ".sh":
			default:
				return nil
			}
			content, err := os.ReadFile(path)
			if err == nil && utf8.Valid(content) {
				lines = append(lines, strings.Split(string(content), "\n")...)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("no source lines below %s; give the repository with --root", root)
	}
	return lines, nil
}

func startPublisher(o options, server, dir string, lines []string) (*publisher, error) {
	encoded, err := json.Marshal(lines)
	if err != nil {
		return nil, err
	}
	file, console := filepath.Join(dir, "lines.json"), filepath.Join(dir, "answers")
	if err := os.WriteFile(file, encoded, 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "k6.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(o.k6, "run", "--quiet", "--no-color", "--log-format", "raw", "--console-output", console,
		"--summary-export", filepath.Join(dir, "summary.json"), filepath.Join(o.root, "loadtests/mainjob/publish.js"))
	cmd.Env = append(os.Environ(), "K6_NO_USAGE_REPORT=true", "SERVER="+server, "LINES="+file,
		"PROTO="+filepath.Join(o.root, "proto"), fmt.Sprint("SUBJECTS=", o.subjects),
		fmt.Sprint("MESSAGES=", o.messages), fmt.Sprint("USERS=", o.users))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("k6 does not start: %w; install it with `tests/services/install k6`", err)
	}
	return &publisher{cmd: cmd, console: console}, nil
}

// acknowledged counts the answers that came until now.
func (p *publisher) acknowledged() int {
	file, err := os.Open(p.console)
	if err != nil {
		return p.acks
	}
	defer file.Close()
	buffer := make([]byte, 1<<20)
	for {
		n, _ := file.ReadAt(buffer, p.counted)
		// Only whole lines, so that none is counted twice or missed.
		n = bytes.LastIndexByte(buffer[:n], '\n') + 1
		if n == 0 {
			return p.acks
		}
		p.acks += bytes.Count(buffer[:n], []byte("acked "))
		p.counted += int64(n)
	}
}

// answers reads what k6 wrote down, and compares it with what k6 counted: no line may be missing.
func (p *publisher) answers(dir string) (acks []ack, unknown map[token]bool, err error) {
	file, err := os.Open(p.console)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	unknown = map[token]bool{}
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var a ack
		var t token
		var code string
		line := scanner.Text()
		if _, err := fmt.Sscanf(line, "acked %s %d %d %d", &a.subject, &a.id, &a.token.number, &a.token.attempt); err == nil {
			acks = append(acks, a)
		} else if _, err := fmt.Sscanf(line, "unknown %d %d %s", &t.number, &t.attempt, &code); err == nil {
			unknown[t] = true
		} else {
			return nil, nil, fmt.Errorf("k6 wrote %q, which is no answer; its output is %s/k6.log", line, dir)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("k6 left no summary (%w); its output is %s/k6.log", err, dir)
	}
	var summary struct {
		Metrics struct {
			Acked, Unknown struct{ Count int }
		}
	}
	if err := json.Unmarshal(raw, &summary); err != nil {
		return nil, nil, err
	}
	if m := summary.Metrics; m.Acked.Count != len(acks) || m.Unknown.Count != len(unknown) {
		return nil, nil, fmt.Errorf("k6 counted %d acknowledged and %d unknown, but wrote down %d and %d",
			m.Acked.Count, m.Unknown.Count, len(acks), len(unknown))
	}
	return acks, unknown, nil
}
