// Starts `gb6 dev` for one suite: on a port that it can come back to, with data of its own.

package sdk

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How long anything may take before a test fails.
const patience = 20 * time.Second

// Ports are chosen outside the range of those that the kernel gives to outgoing connections: while a
// killed server is away, one of them could get its port (tests/sdk/lib/ports.js does the same).
const (
	firstPort        = 10_000
	usualKernelFirst = 32_768
	// Ports between the first ones of two processes with neighbouring ids.
	stride = 97
)

var portsGiven atomic.Int64

// The first port that the kernel chooses by itself.
func kernelFirst() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if fields := strings.Fields(string(text)); err == nil && len(fields) > 0 {
		if first, err := strconv.Atoi(fields[0]); err == nil && first > firstPort+1_000 {
			return first
		}
	}
	return usualKernelFirst
}

// An address of loopback whose port was free a moment ago, never given out twice here.
func freeAddress(t testing.TB) string {
	span := kernelFirst() - firstPort
	for range span {
		port := firstPort + (os.Getpid()*stride+int(portsGiven.Add(1)))%span
		address := fmt.Sprintf("127.0.0.1:%d", port)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = listener.Close()
		return address
	}
	t.Fatalf("no port from %d to %d is free", firstPort, firstPort+span)
	return ""
}

// The directory of builds.
func target() string {
	root, _ := filepath.Abs("../..")
	if named := os.Getenv("CARGO_TARGET_DIR"); filepath.IsAbs(named) {
		return named
	} else if named != "" {
		return filepath.Join(root, named)
	}
	return filepath.Join(root, "target")
}

// The gb6 that is tested: GB6_BIN, or the development build.
func gb6(t testing.TB) string {
	file := filepath.Join(target(), "debug", "gb6")
	if named := os.Getenv("GB6_BIN"); filepath.IsAbs(named) {
		file = named
	} else if named != "" {
		file = filepath.Join("../..", named)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%s does not exist: build it with `cargo build -p gb6`", file)
	}
	return file
}

// What a server says with --ready-json.
type ready struct {
	WS         string            `json:"ws"`
	HMACSecret string            `json:"hmac_secret"`
	Tokens     map[string]string `json:"tokens"`
}

type server struct {
	ready
	address   string
	dir       string
	arguments []string
	command   *exec.Cmd
}

// Starts a server that ends with the test, with these arguments beside the usual ones.
func startServer(t testing.TB, arguments ...string) *server {
	s := &server{address: freeAddress(t), dir: t.TempDir(), arguments: arguments}
	s.start(t)
	t.Cleanup(func() {
		_ = s.command.Process.Kill()
		_ = s.command.Wait()
	})
	return s
}

func (s *server) start(t testing.TB) {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	usual := []string{"dev", "--ready-json", "--http", s.address, "--data-dir", data}
	// Servers that start at once would take the usual port from each other.
	usual = append(usual, "--quic", "127.0.0.1:0")
	s.command = exec.Command(gb6(t), append(usual, s.arguments...)...)
	log, err := os.OpenFile(filepath.Join(s.dir, "gb6.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.command.Stderr = log
	out, err := s.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	// A server that says nothing is ended, which ends the reading of its line.
	late := time.AfterFunc(patience, func() { _ = s.command.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	late.Stop()
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("gb6 dev ended before it was ready: %v\n%s", err, text)
	}
	if err := json.Unmarshal(line, &s.ready); err != nil {
		t.Fatalf("the line of --ready-json: %v", err)
	}
}

// SIGKILL, and waits until it is gone.
func (s *server) kill() {
	_ = s.command.Process.Kill()
	_ = s.command.Wait()
}

// SIGTERM; the status with which it ends.
func (s *server) terminate(t testing.TB) int {
	t.Helper()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = s.command.Process.Kill() })
	defer late.Stop()
	_ = s.command.Wait()
	return s.command.ProcessState.ExitCode()
}
