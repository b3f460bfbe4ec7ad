package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// broker is the process under test.
type broker struct {
	binary, dir   string
	listen, admin string
	cmd           *exec.Cmd
	exited        chan error
}

func (b *broker) data() string { return filepath.Join(b.dir, "data") }

// start returns how long it took until the broker was ready.
func (b *broker) start() (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(b.dir, "broker.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	b.cmd = exec.Command(b.binary, "serve", "--listen", b.listen, "--admin-listen", b.admin, "--data-dir", b.data())
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := b.cmd.Start(); err != nil {
		return 0, fmt.Errorf("%s does not start: %w; build it with `cargo build --release`", b.binary, err)
	}
	b.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(b.cmd, b.exited)
	for time.Since(begun) < time.Minute {
		select {
		case err := <-b.exited:
			return 0, fmt.Errorf("the broker ended before it was ready (%v); its output is %s", err, log.Name())
		case <-time.After(5 * time.Millisecond):
		}
		if answer, err := http.Get("http://" + b.admin + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return time.Since(begun), nil
			}
		}
	}
	b.kill()
	return 0, fmt.Errorf("the broker is not ready after a minute; its output is %s", log.Name())
}

// kill ends the broker as a crash would, and returns when it is gone.
func (b *broker) kill() {
	_ = b.cmd.Process.Signal(syscall.SIGKILL)
	<-b.exited
}

// stop ends the broker in order.
func (b *broker) stop() error {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-b.exited:
		return err
	case <-time.After(time.Minute):
		b.kill()
		return fmt.Errorf("the broker did not stop within a minute of SIGTERM")
	}
}

// remember copies the data directory as a crash at this moment would leave it.
func (b *broker) remember() error {
	_ = b.cmd.Process.Signal(syscall.SIGSTOP)
	defer b.cmd.Process.Signal(syscall.SIGCONT)
	return copyTree(b.data(), b.data()+".old")
}

// forget puts the remembered directory back: everything acknowledged since then is gone.
func (b *broker) forget() error {
	if err := os.RemoveAll(b.data()); err != nil {
		return err
	}
	return os.Rename(b.data()+".old", b.data())
}

func copyTree(from, to string) error {
	if output, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, output)
	}
	return nil
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
