// What an application does in rooms: publish, read, look who is there, leave.

package sdk

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func TestPublish(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "publish")
		channel := freshRoom("publish")
		clients := []*client{s.connect(t, e, "alice"), s.connect(t, e, "bob")}
		rooms := []*room{clients[0].enter(t, channel), clients[1].enter(t, channel)}
		began := rooms[0].subscribed.all()[0]
		if !began.Positioned || !began.Recoverable || began.WasRecovering {
			t.Fatalf("subscribed with %+v", began)
		}
		if began.StreamPosition.Offset != 0 || began.StreamPosition.Epoch == "" {
			t.Fatalf("position %+v", began.StreamPosition)
		}
		for n, data := range numbered(20) {
			if _, err := rooms[n%2].Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range rooms {
			equal(t, "data", r.data(t, 20), numbered(20))
			equal(t, "offsets", r.offsets(), upTo(20))
			for n, event := range r.publications.all() {
				if want := []string{"alice", "bob"}[n%2]; event.Info.User != want || event.Info.Client == "" {
					t.Fatalf("publication %d is of %+v", n, event.Info)
				}
			}
		}
	})
}

func TestDurablePublish(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "durable-publish")
		channel := freshRoom("durable")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		r := bob.enter(t, channel)
		first := alice.mustPublish(t, channel, "m1", `{"text":"ä"}`)
		if first.Offset != 1 || first.Duplicate || time.Since(time.UnixMilli(first.Time)).Abs() > time.Minute {
			t.Fatalf("%+v", first)
		}
		again := alice.mustPublish(t, channel, "m1", `{"text":"ä"}`)
		if again.Offset != 1 || !again.Duplicate || again.Epoch != first.Epoch {
			t.Fatalf("%+v", again)
		}
		// The id belongs to the user: another one's is another message.
		if other := bob.mustPublish(t, channel, "m1", `{"text":"b"}`); other.Offset != 2 || other.Duplicate {
			t.Fatalf("%+v", other)
		}
		equal(t, "data", r.data(t, 2), []string{`{"text":"ä"}`, `{"text":"b"}`})
		for _, event := range r.publications.all() {
			if event.Tags["id"] != "m1" {
				t.Fatalf("tags %v", event.Tags)
			}
		}
	})
}

func TestHistory(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "history")
		channel := freshRoom("history")
		alice := s.connect(t, e, "alice")
		for n, data := range numbered(25) {
			alice.mustPublish(t, channel, fmt.Sprintf("m%d", n), data)
		}
		offsets := func(options ...centrifuge.HistoryOption) []uint64 {
			page, err := alice.History(soon(t), channel, options...)
			if err != nil {
				t.Fatal(err)
			}
			var offsets []uint64
			for _, publication := range page.Publications {
				if publication.Info.User != "alice" || !strings.HasPrefix(publication.Tags["id"], "m") {
					t.Fatalf("%+v", publication)
				}
				offsets = append(offsets, publication.Offset)
			}
			return offsets
		}
		top, err := alice.History(soon(t), channel, centrifuge.WithHistoryLimit(0))
		if err != nil || top.Offset != 25 || len(top.Publications) != 0 {
			t.Fatalf("%+v, %v", top, err)
		}
		since := func(offset uint64, epoch string) centrifuge.HistoryOption {
			return centrifuge.WithHistorySince(&centrifuge.StreamPosition{Offset: offset, Epoch: epoch})
		}
		limit, back := centrifuge.WithHistoryLimit, centrifuge.WithHistoryReverse(true)
		equal(t, "first page", offsets(limit(10)), upTo(10))
		equal(t, "behind 10", offsets(limit(3), since(10, top.Epoch)), []uint64{11, 12, 13})
		equal(t, "newest first", offsets(limit(3), back), []uint64{25, 24, 23})
		equal(t, "before 23", offsets(limit(3), back, since(23, top.Epoch)), []uint64{22, 21, 20})
		equal(t, "all", offsets(limit(-1)), upTo(25))
		equal(t, "behind the top", offsets(limit(10), since(25, top.Epoch)), nil)
		equal(t, "any epoch", offsets(limit(10), since(24, "")), []uint64{25})
		_, err = alice.History(soon(t), channel, limit(10), since(1, "other"))
		wantCode(t, 112, err)
	})
}

func TestPresence(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "presence", "join-leave")
		channel := freshRoom("presence")
		r := s.connect(t, e, "alice").enter(t, channel)
		bobs := []*client{s.connect(t, e, "bob"), s.connect(t, e, "bob")}
		theirs := []*room{bobs[0].enter(t, channel), bobs[1].enter(t, channel)}
		joinOfBob := func(event centrifuge.JoinEvent) bool { return event.User == "bob" }
		leaveOfBob := func(event centrifuge.LeaveEvent) bool { return event.User == "bob" }
		r.joins.wait(t, "two joins of bob", 2, joinOfBob)
		present, err := r.Presence(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for id, info := range present.Clients {
			if info.Client != id {
				t.Fatalf("%s is %+v", id, info)
			}
			users = append(users, info.User)
		}
		sort.Strings(users)
		equal(t, "users", users, []string{"alice", "bob", "bob"})
		stats := func(clients, users int) {
			t.Helper()
			got, err := r.PresenceStats(soon(t))
			if err != nil || got.NumClients != clients || got.NumUsers != users {
				t.Fatalf("%+v, %v", got, err)
			}
		}
		stats(3, 2)
		if err := bobs[0].Disconnect(); err != nil {
			t.Fatal(err)
		}
		r.leaves.wait(t, "a leave of bob", 1, leaveOfBob)
		stats(2, 2)
		if err := theirs[1].Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		r.leaves.wait(t, "two leaves of bob", 2, leaveOfBob)
		stats(1, 1)
	})
}

func TestUnsubscribe(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "unsubscribe")
		channel := freshRoom("unsubscribe")
		alice := s.connect(t, e, "alice")
		r := alice.enter(t, channel)
		alice.mustPublish(t, channel, "", `{"n":1}`)
		r.data(t, 1)
		if err := r.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		alice.mustPublish(t, channel, "", `{"n":2}`)
		fresh := s.connect(t, e, "bob").enter(t, channel)
		if at := fresh.subscribed.all()[0].StreamPosition.Offset; at != 2 {
			t.Fatalf("subscribed at %d", at)
		}
		alice.mustPublish(t, channel, "", `{"n":3}`)
		equal(t, "data", fresh.data(t, 1), []string{`{"n":3}`})
		equal(t, "data after unsubscribing", r.data(t, 1), []string{`{"n":1}`})
	})
}

func TestErrors(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "errors")
		alice := s.connect(t, e, "alice")
		large := fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 66_000))
		rpc := func(method, data string) error {
			_, err := alice.RPC(soon(t), method, []byte(data))
			return err
		}
		publish := func(channel, data string) error {
			_, err := alice.Publish(soon(t), channel, []byte(data))
			return err
		}
		durable := func(id, data string) error {
			_, err := alice.roomPublish(soon(t), freshRoom("bad"), id, data)
			return err
		}
		history := func(channel string) error {
			_, err := alice.History(soon(t), channel, centrifuge.WithHistoryLimit(1))
			return err
		}
		wantCode(t, 104, rpc("no.such.method", "{}"))
		wantCode(t, 107, rpc("room.publish", `{"room":""}`))
		wantCode(t, 107, durable(strings.Repeat("x", 129), "{}"))
		wantCode(t, 107, durable("x", large))
		wantCode(t, 107, publish(freshRoom("size"), large))
		wantCode(t, 107, publish("room:"+strings.Repeat("x", 300), "{}"))
		wantCode(t, 102, publish("nowhere:a", "{}"))
		wantCode(t, 102, history("nowhere:a"))
	})
}

func TestCapabilities(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "capabilities")
		body := member("carol", time.Hour)
		body["caps"] = []claims{{"channels": []string{"room:open-*"}, "match": "wildcard", "allow": []string{"sub"}}}
		carol := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, body)})
		r := carol.enter(t, freshRoom("open-x"))
		_, err := r.Publish(soon(t), []byte("{}"))
		wantCode(t, 103, err)
		_, err = carol.roomPublish(soon(t), r.Channel, "a", "{}")
		wantCode(t, 103, err)
		_, err = r.History(soon(t), centrifuge.WithHistoryLimit(1))
		wantCode(t, 103, err)
		_, err = r.Presence(soon(t))
		wantCode(t, 103, err)
		closed := carol.room(t, freshRoom("closed"), centrifuge.SubscriptionConfig{})
		if err := closed.Subscribe(); err != nil {
			t.Fatal(err)
		}
		if ended := closed.unsubscribed.wait(t, "refused", 1, nil)[0]; ended.Code != 103 || ended.Reason == "" {
			t.Fatalf("ended with %+v", ended)
		}
	})
}

func TestLimits(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "limits")
		alice := s.connect(t, e, "alice")
		name := freshRoom("limit")
		var rooms []*room
		for n := range 1024 {
			r := alice.room(t, fmt.Sprintf("%s-%d", name, n), centrifuge.SubscriptionConfig{})
			if err := r.Subscribe(); err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, r)
		}
		for _, r := range rooms {
			r.subscribed.wait(t, "subscribed to "+r.Channel, 1, nil)
		}
		beyond := alice.room(t, name+"-beyond", centrifuge.SubscriptionConfig{})
		if err := beyond.Subscribe(); err != nil {
			t.Fatal(err)
		}
		if ended := beyond.unsubscribed.wait(t, "refused", 1, nil)[0]; ended.Code != 106 {
			t.Fatalf("ended with %+v", ended)
		}
		// And one that ends makes room for another.
		if err := rooms[0].Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		beyond.begin(t)
	})
}

// The room of a client of one encoding, and of one of the other, in one channel.
func both(t *testing.T, s *server, channel string) (json, protobuf *room) {
	return s.connect(t, encodings[0], "alice").enter(t, channel), s.connect(t, encodings[1], "bob").enter(t, channel)
}

func TestText(t *testing.T) {
	s := startServer(t)
	for _, e := range encodings {
		proves(t, e, "text")
	}
	json, protobuf := both(t, s, freshRoom("text"))
	values := []string{`{"text":"ä€😀\n","n":1.5,"list":[null,true]}`, `"text"`, `7`, `[]`, `{"b64":"not ours"}`}
	for n, value := range values {
		if _, err := []*room{json, protobuf}[n%2].Publish(soon(t), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "JSON", json.data(t, len(values)), values)
	equal(t, "Protobuf", protobuf.data(t, len(values)), values)
}

func TestBinary(t *testing.T) {
	s := startServer(t)
	for _, e := range encodings {
		proves(t, e, "binary")
	}
	json, protobuf := both(t, s, freshRoom("binary"))
	values := []string{"\x00\xff\x01\xfe", "{", "plain words"}
	for _, value := range values {
		if _, err := protobuf.Publish(soon(t), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "Protobuf", protobuf.data(t, len(values)), values)
	equal(t, "JSON", json.data(t, len(values)), []string{`{"b64":"AP8B/g=="}`, `{"b64":"ew=="}`, `{"b64":"cGxhaW4gd29yZHM="}`})
}
