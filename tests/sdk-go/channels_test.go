// Whose channels are whose: subscriptions by token and by the server, private and personal channels,
// people without a token, and namespaces with options of their own.

package sdk

import (
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func startWithChannels(t *testing.T) *server {
	file, err := filepath.Abs("../conformance/channels.toml")
	if err != nil {
		t.Fatal(err)
	}
	return startServer(t, "--config", file)
}

// A channel of a namespace that no other test uses.
func freshIn(namespace string) string {
	return strings.Replace(freshRoom("c"), "room:", namespace+":", 1)
}

// A token for a subscription.
func (s *server) subscription(t testing.TB, user, channel string, life time.Duration, more claims) string {
	body := claims{"sub": user, "channel": channel, "exp": time.Now().Add(life).Unix()}
	for name, value := range more {
		body[name] = value
	}
	return s.sign(t, body)
}

// Claims of a user who may do what any member may.
func withoutCaps(user string) claims {
	body := member(user, time.Hour)
	delete(body, "caps")
	return body
}

// A client that keeps what it is told of its server-side subscriptions.
type served struct {
	*client
	begun        log[centrifuge.ServerSubscribedEvent]
	publications log[centrifuge.ServerPublicationEvent]
}

func (s *server) serve(t testing.TB, e encoding, body claims) *served {
	t.Helper()
	c := &served{client: s.client(t, e, centrifuge.Config{Token: s.sign(t, body)})}
	c.OnSubscribed(c.begun.add)
	c.OnPublication(c.publications.add)
	if err := c.Connect(); err != nil {
		t.Fatal(err)
	}
	c.connected.wait(t, "connected", 1, nil)
	return c
}

// Requires that a subscription is refused with 103, and so is publishing to it.
func keptOut(t testing.TB, c *client, channel string) {
	t.Helper()
	r := c.room(t, channel, centrifuge.SubscriptionConfig{})
	if err := r.Subscribe(); err != nil {
		t.Fatal(err)
	}
	if ended := r.unsubscribed.wait(t, "refused", 1, nil)[0]; ended.Code != 103 || ended.Reason == "" {
		t.Fatalf("%s: ended with %+v", channel, ended)
	}
	_, err := c.Publish(soon(t), channel, []byte("{}"))
	wantCode(t, 103, err)
}

func TestSubscriptionToken(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "sub-token")
		channel := freshIn("guarded")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		token := s.subscription(t, "alice", channel, time.Hour, claims{"info": claims{"role": "host"}, "data": claims{"topic": "ä"}})
		r := alice.room(t, channel, centrifuge.SubscriptionConfig{Token: token})
		r.begin(t)
		if data := string(r.subscribed.all()[0].Data); data != `{"topic":"ä"}` {
			t.Fatalf("data %s", data)
		}
		theirs := bob.room(t, channel, centrifuge.SubscriptionConfig{
			GetToken: func(event centrifuge.SubscriptionTokenEvent) (string, error) {
				return s.subscription(t, "bob", event.Channel, time.Hour, claims{"info": claims{"role": "guest"}}), nil
			},
		})
		theirs.begin(t)
		join := r.joins.wait(t, "the join of bob", 1, func(event centrifuge.JoinEvent) bool { return event.User == "bob" })[0]
		if string(join.ChanInfo) != `{"role":"guest"}` {
			t.Fatalf("info %s", join.ChanInfo)
		}
		if _, err := r.Publish(soon(t), []byte(`{"n":1}`)); err != nil {
			t.Fatal(err)
		}
		equal(t, "data", theirs.data(t, 1), numbered(1))
		if info := string(theirs.publications.all()[0].Info.ChanInfo); info != `{"role":"host"}` {
			t.Fatalf("info %s", info)
		}
		present, err := theirs.Presence(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		var roles []string
		for _, info := range present.Clients {
			roles = append(roles, string(info.ChanInfo))
		}
		sort.Strings(roles)
		equal(t, "roles", roles, []string{`{"role":"guest"}`, `{"role":"host"}`})
		// Who has none is refused, in all that the channel is for.
		carol := s.connect(t, e, "carol")
		keptOut(t, carol, channel)
		_, err = carol.History(soon(t), channel, centrifuge.WithHistoryLimit(1))
		wantCode(t, 103, err)
		_, err = carol.Client.Presence(soon(t), channel)
		wantCode(t, 103, err)
	})
}

func TestSubscriptionTokenRefused(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "sub-token-refused")
		alice := s.connect(t, e, "alice")
		channel := freshIn("guarded")
		body := claims{"sub": "alice", "channel": channel, "exp": time.Now().Add(time.Hour).Unix()}
		bad := signWith(strings.Repeat("x", 64), keyID(t, s.Tokens["alice"]), body)
		refused := alice.room(t, channel, centrifuge.SubscriptionConfig{Token: bad})
		if err := refused.Subscribe(); err != nil {
			t.Fatal(err)
		}
		if ended := refused.unsubscribed.wait(t, "refused", 1, nil)[0]; ended.Code != 103 || ended.Reason == "" {
			t.Fatalf("ended with %+v", ended)
		}
		var asked atomic.Int64
		other := freshIn("guarded")
		expired := alice.room(t, other, centrifuge.SubscriptionConfig{
			Token: s.subscription(t, "alice", other, -time.Minute, nil),
			GetToken: func(event centrifuge.SubscriptionTokenEvent) (string, error) {
				asked.Add(1)
				return s.subscription(t, "alice", event.Channel, time.Hour, nil), nil
			},
		})
		expired.begin(t)
		if asked.Load() != 1 {
			t.Fatalf("asked for a token %d times", asked.Load())
		}
		mine := freshIn("guarded")
		for _, token := range []string{
			s.subscription(t, "bob", mine, time.Hour, nil),
			s.subscription(t, "alice", freshIn("guarded"), time.Hour, nil),
		} {
			c := s.connect(t, e, "alice")
			r := c.room(t, mine, centrifuge.SubscriptionConfig{Token: token})
			if err := r.Subscribe(); err != nil {
				t.Fatal(err)
			}
			if ended := c.disconnected.wait(t, "the end", 1, nil)[0]; ended.Code != 3500 || ended.Reason == "" {
				t.Fatalf("ended with %+v", ended)
			}
		}
	})
}

func TestSubscriptionRefresh(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "sub-refresh")
		channel := freshIn("guarded")
		var asked atomic.Int64
		again := make(chan struct{})
		r := s.connect(t, e, "alice").room(t, channel, centrifuge.SubscriptionConfig{
			GetToken: func(centrifuge.SubscriptionTokenEvent) (string, error) {
				life := 2 * time.Second
				switch asked.Add(1) {
				case 3:
					close(again)
					life = time.Hour
				}
				return s.subscription(t, "alice", channel, life, nil), nil
			},
		})
		r.begin(t)
		select {
		case <-again:
		case <-time.After(patience):
			t.Fatal("no second refresh")
		}
		if _, err := r.Publish(soon(t), []byte(`{"n":1}`)); err != nil {
			t.Fatal(err)
		}
		equal(t, "data", r.data(t, 1), numbered(1))
		if len(r.subscribed.all()) != 1 {
			t.Fatalf("subscribed again: %+v", r.subscribed.all())
		}
	})
}

func TestServerSubscriptions(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "server-subs")
		one, two := freshIn("room"), freshIn("room")
		alice := s.connect(t, e, "alice")
		body := member("bob", time.Hour)
		body["channels"] = []string{one}
		body["subs"] = claims{two: claims{"data": claims{"topic": "x"}, "info": claims{"role": "r"}}}
		bob := s.serve(t, e, body)
		in := func(channel string) func(centrifuge.ServerSubscribedEvent) bool {
			return func(event centrifuge.ServerSubscribedEvent) bool { return event.Channel == channel }
		}
		bob.begun.wait(t, "subscribed to the first", 1, in(one))
		second := bob.begun.wait(t, "subscribed to the second", 1, in(two))[0]
		if string(second.Data) != `{"topic":"x"}` || !second.Recoverable || second.StreamPosition.Offset != 0 {
			t.Fatalf("%+v", second)
		}
		alice.mustPublish(t, one, "", `{"n":1}`)
		of := func(channel string, count int) (data []string) {
			t.Helper()
			events := bob.publications.wait(t, "publications", count, func(event centrifuge.ServerPublicationEvent) bool {
				return event.Channel == channel
			})
			for _, event := range events {
				data = append(data, string(event.Data))
			}
			return data
		}
		of(one, 1)
		// Cut off, so that the client comes back by itself.
		bob.cut()
		alice.mustPublish(t, one, "", `{"n":2}`)
		alice.mustPublish(t, two, "", `{"n":1}`)
		alice.mustPublish(t, one, "", `{"n":3}`)
		again := bob.begun.wait(t, "subscribed again", 2, in(two))[1]
		if !again.WasRecovering || !again.Recovered {
			t.Fatalf("%+v", again)
		}
		equal(t, "first", of(one, 3), numbered(3))
		equal(t, "second", of(two, 1), numbered(1))
	})
}

func TestPersonalChannel(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "personal")
		user := "u-" + e.name
		clients := []*served{s.serve(t, e, withoutCaps(user)), s.serve(t, e, withoutCaps(user))}
		for _, c := range clients {
			c.begun.wait(t, "its own channel", 1, func(event centrifuge.ServerSubscribedEvent) bool {
				return event.Channel == "#"+user
			})
		}
		if _, err := clients[0].Publish(soon(t), "#"+user, []byte(`{"n":1}`)); err != nil {
			t.Fatal(err)
		}
		for _, c := range clients {
			event := c.publications.wait(t, "the publication", 1, nil)[0]
			if event.Channel != "#"+user || string(event.Data) != `{"n":1}` {
				t.Fatalf("%+v", event)
			}
		}
		stranger := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, withoutCaps("stranger"))})
		keptOut(t, stranger, "#"+user)
		_, err := stranger.History(soon(t), "#"+user, centrifuge.WithHistoryLimit(1))
		wantCode(t, 103, err)
	})
}

func TestChannelNames(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "channel-names")
		listed, hidden := freshIn("room")+"#alice,bob", "$"+freshIn("room")
		alice, carol := s.connect(t, e, "alice"), s.connect(t, e, "carol")
		alice.enter(t, listed)
		token := s.subscription(t, "alice", hidden, time.Hour, nil)
		alice.room(t, hidden, centrifuge.SubscriptionConfig{Token: token}).begin(t)
		for _, channel := range []string{listed, hidden, "!system"} {
			keptOut(t, carol, channel)
		}
	})
}

func TestAnonymous(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "anonymous")
		nobody := s.connectWith(t, e, centrifuge.Config{})
		r := nobody.enter(t, freshIn("news"))
		_, err := r.Publish(soon(t), []byte("{}"))
		wantCode(t, 103, err)
		keptOut(t, nobody, freshIn("room"))
	})
}

func TestCacheRecovery(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "cache")
		channel := freshIn("price")
		alice := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, withoutCaps("alice"))})
		bob := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, withoutCaps("bob"))})
		for _, data := range numbered(5) {
			if _, err := alice.Publish(soon(t), channel, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		top, err := alice.History(soon(t), channel, centrifuge.WithHistoryLimit(0))
		if err != nil {
			t.Fatal(err)
		}
		r := bob.room(t, channel, centrifuge.SubscriptionConfig{
			GetState: func(centrifuge.SubscriptionGetStateEvent) (centrifuge.StreamPosition, error) {
				return centrifuge.StreamPosition{Offset: 1, Epoch: top.Epoch}, nil
			},
		})
		r.begin(t)
		equal(t, "data", r.data(t, 1), []string{`{"n":5}`})
		equal(t, "offsets", r.offsets(), []uint64{5})
		// Who has it gets nothing, and is recovered all the same.
		bob.cut()
		for _, event := range r.subscribed.wait(t, "subscribed again", 2, nil) {
			if !event.Recovered {
				t.Fatalf("%+v", event)
			}
		}
		equal(t, "offsets", r.offsets(), []uint64{5})
	})
}

func TestDedupeField(t *testing.T) {
	s := startWithChannels(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "dedupe-field")
		alice := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, withoutCaps("alice"))})
		r := alice.enter(t, freshIn("orders"))
		for _, data := range []string{`{"id":"order-17"}`, `{"id":"order-17"}`, `{"id":17}`, `{"id":"order-18"}`} {
			if _, err := r.Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "data", r.data(t, 3), []string{`{"id":"order-17"}`, `{"id":17}`, `{"id":"order-18"}`})
	})
}
