// The Go program of docs/migrating.md, as the page leaves it, on the server that it configures.

package sdk

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// The only block of a language below a heading of the page.
func pageBlock(t *testing.T, heading, language string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range strings.Split(string(page), "\n## ") {
		if strings.HasPrefix(section, heading) {
			found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(section, -1)
			if len(found) == 1 {
				return found[0][1]
			}
		}
	}
	t.Fatalf("the page has not one block of %s below %s", language, heading)
	return ""
}

func TestMigrating(t *testing.T) {
	folder := t.TempDir()
	config := filepath.Join(folder, "chat.toml")
	if err := os.WriteFile(config, []byte(pageBlock(t, "The server", "toml")), 0o600); err != nil {
		t.Fatal(err)
	}
	var before struct {
		Client struct {
			Token struct {
				Secret string `json:"hmac_secret_key"`
			}
		}
	}
	if err := json.Unmarshal([]byte(pageBlock(t, "The server", "json")), &before); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, "--config", config)
	program, diff := pageBlock(t, "Go", "go"), pageBlock(t, "Go", "diff")
	var minus, plus string
	for _, line := range strings.Split(diff, "\n") {
		if old, is := strings.CutPrefix(line, "-"); is {
			minus += old + "\n"
		} else if new, is := strings.CutPrefix(line, "+"); is {
			plus += new + "\n"
		}
	}
	if strings.Count(program, minus) != 1 || !strings.Contains(plus, "localhost:8080") {
		t.Fatalf("the change does not fit the program: %s", diff)
	}
	program = strings.Replace(program, minus, plus, 1)
	program = strings.Replace(program, "localhost:8080", s.address, 1)
	// Below this module, whose dependency it uses.
	made, err := os.MkdirTemp(".", "migrating-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(made)
	if err := os.WriteFile(filepath.Join(made, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(folder, "service")
	if out, err := exec.Command("go", "build", "-o", binary, "./"+made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// As the application's backend signs it: without a key id, and with no capabilities.
	sign := func(user string) string {
		text := encodePart(claims{"alg": "HS256", "typ": "JWT"}) + "." + encodePart(withoutCaps(user))
		return signText(before.Client.Token.Secret, text)
	}
	service := exec.Command(binary)
	service.Env = append(os.Environ(), "TOKEN="+sign("service"))
	out, err := service.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait()
	})
	alice := s.connectWith(t, encodings[0], centrifuge.Config{Token: sign("alice")})
	// Until the service is there, somebody writes.
	stop := time.AfterFunc(patience, func() { _ = service.Process.Kill() })
	defer stop.Stop()
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	for {
		alice.mustPublish(t, "room:lobby", "", `{"text":"hello"}`)
		select {
		case text := <-line:
			if !strings.HasSuffix(text, " {\"text\":\"hello\"}\n") {
				t.Fatalf("the service said %q", text)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
