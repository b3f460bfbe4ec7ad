package compat

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"walcast.example/compat/brokerpb"
)

// patience bounds every wait: far above what a loaded machine needs, so that it only ever ends a hang.
const patience = 60 * time.Second

// firstPort is another one in each process, so that two of them hardly meet.
var (
	firstPort  = rand.Uint32N(10000)
	takenPorts atomic.Uint32
)

// node is a broker process of its own, with a data directory and ports nobody else has.
type node struct {
	t      testing.TB
	listen string
	admin  string
	data   string
	cmd    *exec.Cmd
	exited chan struct{}

	lock   sync.Mutex
	alarms []string // WARN and ERROR lines, which no scenario here announces
	output []string
}

// startNode starts the broker named by BROKER_BIN and waits until it is ready.
func startNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, listen: freeAddress(t), admin: freeAddress(t), data: t.TempDir()}
	n.start()
	t.Cleanup(n.finish)
	return n
}

func (n *node) start() {
	n.t.Helper()
	binary := os.Getenv("BROKER_BIN")
	if binary == "" {
		n.t.Fatal("BROKER_BIN is not set; give the path of the broker, for example target/debug/walcast")
	}
	n.cmd = exec.Command(binary, "serve", "--listen", n.listen, "--admin-listen", n.admin, "--data-dir", n.data)
	n.cmd.Env = append(os.Environ(), "WALCAST_TELEMETRY__LOG_FORMAT=json")
	// A test that is killed must not leave its broker behind.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	reader, writer, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd.Stdout, n.cmd.Stderr = writer, writer
	if err := n.cmd.Start(); err != nil {
		n.t.Fatalf("%s does not start: %v", binary, err)
	}
	writer.Close()
	go n.read(reader)
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) { _ = cmd.Wait(); close(exited) }(n.cmd, n.exited)
	n.waitReady()
}

func (n *node) read(reader *os.File) {
	defer reader.Close()
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Level string }
		n.lock.Lock()
		n.output = append(n.output, lines.Text())
		if json.Unmarshal(lines.Bytes(), &line) == nil && (line.Level == "WARN" || line.Level == "ERROR") {
			n.alarms = append(n.alarms, lines.Text())
		}
		n.lock.Unlock()
	}
}

func (n *node) waitReady() {
	n.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-n.exited:
			n.t.Fatalf("the broker ended before it was ready: %v\n%s", n.cmd.ProcessState, n.said())
		default:
		}
		if answer, err := http.Get("http://" + n.admin + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
	}
	n.t.Fatalf("the broker is not ready after %v\n%s", patience, n.said())
}

func (n *node) said() string {
	n.lock.Lock()
	defer n.lock.Unlock()
	return strings.Join(n.output, "\n")
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

// waitExit returns the exit code, or -1 after a signal.
func (n *node) waitExit() int {
	n.t.Helper()
	select {
	case <-n.exited:
		return n.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		n.t.Fatalf("the broker did not end within %v\n%s", patience, n.said())
		return 0
	}
}

// kill ends the broker without any warning, as a crash would.
func (n *node) kill() {
	n.t.Helper()
	n.signal(syscall.SIGKILL)
	n.waitExit()
}

func (n *node) finish() {
	select {
	case <-n.exited:
	default:
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-n.exited:
		case <-time.After(patience):
			n.t.Errorf("the broker did not stop within %v of SIGTERM", patience)
			_ = n.cmd.Process.Kill()
			<-n.exited
		}
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	for _, line := range n.alarms {
		n.t.Errorf("unannounced log line: %s", line)
	}
}

// client is one connection, which counts how often it had to be dialled.
type client struct {
	brokerpb.BrokerClient
	conn  *grpc.ClientConn
	dials *atomic.Int32
}

func (n *node) connect(t testing.TB) *client {
	t.Helper()
	dials := new(atomic.Int32)
	conn, err := grpc.NewClient("passthrough:///"+n.listen,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<16), // fixed, so that thousands of unread streams stay small
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{brokerpb.NewBrokerClient(conn), conn, dials}
}

func (c *client) publish(t testing.TB, subject, body string, seconds int32) int32 {
	t.Helper()
	answer, err := c.Publish(wait(t), &brokerpb.PublishRequest{
		Subject: subject, Body: []byte(body), ExpirationSeconds: seconds})
	if err != nil {
		t.Fatalf("publish on %q: %v", subject, err)
	}
	return answer.Id
}

func (c *client) fetch(t testing.TB, subject string, id int32) (string, error) {
	t.Helper()
	answer, err := c.Fetch(wait(t), &brokerpb.FetchRequest{Subject: subject, Id: id})
	return string(answer.GetBody()), err
}

// subscribe returns once the response headers are there, which means: subscribed.
func (c *client) subscribe(t testing.TB, subject string) brokerpb.Broker_SubscribeClient {
	t.Helper()
	stream, err := c.Subscribe(wait(t), &brokerpb.SubscribeRequest{Subject: subject})
	if err != nil {
		t.Fatalf("subscribe to %q: %v", subject, err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatalf("no response headers for %q: %v", subject, err)
	}
	return stream
}

// stillUsable proves that the first connection survived what the test did to it.
func (c *client) stillUsable(t testing.TB) {
	t.Helper()
	subject := "usable-" + t.Name()
	id := c.publish(t, subject, "still here", 60)
	if body, err := c.fetch(t, subject, id); err != nil || body != "still here" {
		t.Errorf("fetch after the test: %q, %v", body, err)
	}
	if dials := c.dials.Load(); dials != 1 {
		t.Errorf("the connection was opened %d times, so it did not survive", dials)
	}
}

func wait(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func receive(t testing.TB, stream brokerpb.Broker_SubscribeClient) string {
	t.Helper()
	message, err := stream.Recv()
	if err != nil {
		t.Fatalf("the stream ended: %v", err)
	}
	return string(message.Body)
}

// expect compares an error's code, and that its text contains what clients look for.
func expect(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if answer := status.Convert(err); answer.Code() != code || !strings.Contains(answer.Message(), text) {
		t.Errorf("got %v %q, expected %v with %q", answer.Code(), answer.Message(), code, text)
	}
}

// freeAddress finds a port below the ones that the system gives to connections: a broker that is killed must find its port
// free again, and a client that looks for it meanwhile must not be given that port itself. None twice: cases run beside each
// other, and a broker takes its port some time later.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := 20000 + (firstPort+takenPorts.Add(1))%10000
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer listener.Close()
			return fmt.Sprint(listener.Addr())
		}
	}
	t.Fatal("no port from 20000 to 29999 is free")
	return ""
}
