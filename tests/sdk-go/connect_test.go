// Beginning and keeping a connection: tokens, expiry, refusals, pings, and servers that end.

package sdk

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func TestConnect(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "connect")
		c := s.connect(t, e, "alice")
		if c.connected.all()[0].ClientID == "" {
			t.Fatal("no client id")
		}
		for _, token := range s.Tokens {
			s.connectWith(t, e, centrifuge.Config{Token: token})
		}
	})
}

func TestRefusals(t *testing.T) {
	s := startServer(t)
	kid := keyID(t, s.Tokens["alice"])
	good := member("alice", time.Hour)
	cases := map[string]struct {
		token string
		code  uint32
	}{
		"another secret": {signWith(strings.Repeat("x", 64), kid, good), 3500},
		"alg none":       {encodePart(claims{"alg": "none", "kid": kid}) + "." + encodePart(good) + ".", 3500},
		"unknown key":    {signWith(strings.Repeat("y", 64), "other.0000", good), 3500},
		"garbage":        {"not.a.token", 3500},
		"none":           {"", 3501},
	}
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "refusals")
		for name, refused := range cases {
			c := s.client(t, e, centrifuge.Config{Token: refused.token})
			if err := c.Connect(); err != nil {
				t.Fatal(err)
			}
			ended := c.disconnected.wait(t, name, 1, nil)[0]
			if ended.Code != refused.code || ended.Reason == "" {
				t.Fatalf("%s: ended with %+v", name, ended)
			}
			if len(c.connected.all()) > 0 {
				t.Fatalf("%s: it was connected", name)
			}
		}
	})
}

// A client whose first token has this life, and whose later ones come from `token`.
func renewing(t *testing.T, s *server, e encoding, life time.Duration, token func(asked int64) string) (*client, *atomic.Int64) {
	asked := &atomic.Int64{}
	return s.connectWith(t, e, centrifuge.Config{
		Token: s.sign(t, member("alice", life)),
		GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) {
			return token(asked.Add(1)), nil
		},
	}), asked
}

func TestRenewal(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "renewal")
		c, asked := renewing(t, s, e, -time.Minute, func(int64) string {
			return s.sign(t, member("alice", time.Hour))
		})
		if asked.Load() != 1 {
			t.Fatalf("asked for a token %d times", asked.Load())
		}
		var reply *centrifuge.Error
		if !errors.As(c.errors.all()[0], &reply) || reply.Code != 109 {
			t.Fatalf("refused with %v", c.errors.all()[0])
		}
	})
}

func TestRefresh(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "refresh")
		again := make(chan struct{})
		c, _ := renewing(t, s, e, 2*time.Second, func(asked int64) string {
			if asked == 1 {
				return s.sign(t, member("alice", 2*time.Second))
			}
			if asked == 2 {
				close(again)
			}
			return s.sign(t, member("alice", time.Hour))
		})
		// Two refreshes: the first brought a short token again.
		select {
		case <-again:
		case <-time.After(patience):
			t.Fatal("no second refresh")
		}
		c.mustPublish(t, freshRoom("refresh"), "", "{}")
		if len(c.connecting.all()) != 1 || len(c.disconnected.all()) != 0 {
			t.Fatalf("the connection was lost: %+v", c.connecting.all())
		}
	})
}

func TestRefreshRefused(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "refresh-refused")
		expired, _ := renewing(t, s, e, 4*time.Second, func(asked int64) string {
			if asked == 1 {
				return s.sign(t, member("alice", -time.Minute))
			}
			return s.sign(t, member("alice", time.Hour))
		})
		foreign, _ := renewing(t, s, e, 4*time.Second, func(int64) string {
			return s.sign(t, member("bob", time.Hour))
		})
		lost := expired.connecting.wait(t, "connecting again", 2, nil)[1]
		if lost.Code != 3005 || lost.Reason == "" {
			t.Fatalf("lost with %+v", lost)
		}
		expired.connected.wait(t, "connected again", 2, nil)
		ended := foreign.disconnected.wait(t, "the end", 1, nil)[0]
		if ended.Code != 3500 || ended.Reason == "" {
			t.Fatalf("ended with %+v", ended)
		}
	})
}

func TestPings(t *testing.T) {
	s := startServer(t)
	idle := map[string]*client{}
	for _, e := range encodings {
		idle[e.name] = s.connect(t, e, "alice")
	}
	// The SDK leaves a server that is silent for the ping interval of 25 s and 10 s.
	time.Sleep(37 * time.Second)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "pings")
		c := idle[e.name]
		if len(c.connecting.all()) != 1 || len(c.disconnected.all()) != 0 {
			t.Fatalf("the connection was lost: %+v", c.connecting.all())
		}
		c.mustPublish(t, freshRoom("idle"), "", "{}")
	})
}

func TestDrain(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "drain")
		c := s.connect(t, e, "alice")
		if status := s.terminate(t); status != 0 {
			t.Fatalf("the server ended with %d", status)
		}
		lost := c.connecting.wait(t, "connecting again", 2, nil)[1]
		if lost.Code != 3001 || lost.Reason == "" {
			t.Fatalf("lost with %+v", lost)
		}
		s.start(t)
		c.connected.wait(t, "connected again", 2, nil)
	})
}

// The same over TLS 1.3, with the certificate that `gb6 dev --tls` makes.
func TestTLS(t *testing.T) {
	s := startServer(t, "--tls")
	if !strings.HasPrefix(s.WS, "wss:") {
		t.Fatal(s.WS)
	}
	shown, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(shown.ConnectionState().PeerCertificates[0])
	_ = shown.Close()
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "tls")
		token := s.sign(t, member("alice", time.Hour))
		alice := s.connectWith(t, e, centrifuge.Config{Token: token, TLSConfig: &tls.Config{RootCAs: roots}})
		r := alice.enter(t, freshRoom("tls"))
		alice.mustPublish(t, r.Channel, "", `{"n":1}`)
		equal(t, "data", r.data(t, 1), numbered(1))
		// A certificate that is not trusted is refused by the client.
		wary := s.client(t, e, centrifuge.Config{Token: token})
		refused := wary.Connect()
		if refused == nil || !strings.Contains(refused.Error(), "x509: certificate signed by unknown authority") {
			t.Fatalf("refused with %v", refused)
		}
	})
}
