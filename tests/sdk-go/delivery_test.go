// In which form publications come: as differences, chosen by tags, under numbers, without one's own,
// kept nowhere.

package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// A state of 2 kB with text whose characters share their first bytes; three fields change.
func state(n int) string {
	var players []claims
	for id := range 20 {
		score := id * 31
		if id == 7 {
			score = n
		}
		players = append(players, claims{"id": id, "name": fmt.Sprintf("Игрок %d из Köln 漢字😀", id), "team": "blue", "score": score})
	}
	text, _ := json.Marshal(claims{"minute": n % 90, "word": string([]rune("жзийклм")[n%7]), "players": players})
	return string(text)
}

func TestDelta(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "delta")
		channel := freshRoom("delta")
		alice, bob, carol := s.connect(t, encodings[0], "alice"), s.connect(t, e, "bob"), s.connect(t, e, "carol")
		r := bob.room(t, channel, centrifuge.SubscriptionConfig{Delta: centrifuge.DeltaTypeFossil})
		r.begin(t)
		plain := carol.enter(t, channel)
		values := []string{`1`, `"ä"`, `null`, `{"text":"\"\\\n\t€"}`, `[]`}
		for n := range 20 {
			values = append(values, state(n))
		}
		for _, value := range values {
			alice.mustPublish(t, channel, "", value)
		}
		equal(t, "data", r.data(t, len(values)), values)
		equal(t, "whole data", plain.data(t, len(values)), values)
		if less, whole := len(bob.received()), len(carol.received()); less*2 > whole {
			t.Fatalf("%d of %d bytes", less, whole)
		}
		// While it is away and after it has come back.
		bob.cut()
		for n := range 4 {
			if n == 2 {
				r.data(t, len(values))
			}
			values = append(values, state(20+n))
			alice.mustPublish(t, channel, "", values[len(values)-1])
		}
		equal(t, "data", r.data(t, len(values)), values)
		equal(t, "offsets", r.offsets(), upTo(len(values)))
		if again := r.subscribed.all()[1]; !again.Recovered {
			t.Fatalf("%+v", again)
		}
	})
}

func TestTagsFilter(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "tags-filter")
		channel := freshRoom("filter")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		r := bob.room(t, channel, centrifuge.SubscriptionConfig{TagsFilter: centrifuge.FilterOr(
			centrifuge.FilterIn("id", "m2", "m9"),
			centrifuge.FilterAnd(centrifuge.FilterStartsWith("id", "m"), centrifuge.FilterEndsWith("id", "5")),
		)})
		r.begin(t)
		for n := 1; n <= 6; n++ {
			alice.mustPublish(t, channel, fmt.Sprintf("m%d", n), fmt.Sprint(n))
		}
		r.data(t, 2)
		bob.cut()
		for n := 7; n <= 15; n++ {
			alice.mustPublish(t, channel, fmt.Sprintf("m%d", n), fmt.Sprint(n))
		}
		equal(t, "data", r.data(t, 4), []string{"2", "5", "9", "15"})
	})
}

func TestCompaction(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "compaction")
		channel, another := freshRoom("compact"), freshRoom("compact")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		r, other := bob.enter(t, channel), bob.enter(t, another)
		before := len(bob.received())
		mine := alice.enter(t, channel)
		for _, data := range numbered(2) {
			if _, err := mine.Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := other.Publish(soon(t), []byte("3")); err != nil {
			t.Fatal(err)
		}
		if err := mine.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		r.joins.wait(t, "the join of alice", 1, func(event centrifuge.JoinEvent) bool { return event.User == "alice" })
		r.leaves.wait(t, "the leave of alice", 1, func(event centrifuge.LeaveEvent) bool { return event.User == "alice" })
		equal(t, "data", r.data(t, 2), numbered(2))
		equal(t, "data of the other", other.data(t, 1), []string{"3"})
		if bytes.Contains(bob.received()[before:], []byte(channel)) {
			t.Fatal("a push named the channel")
		}
	})
}

func TestExcludeOwn(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "exclude-own")
		channel := freshRoom("own")
		alice := s.connectWith(t, e, centrifuge.Config{
			Token: s.sign(t, member("alice", time.Hour)),
			Data:  []byte(`{"gb6":{"exclude_own":true},"app":1}`),
		})
		rooms := []*room{alice.enter(t, channel), s.connect(t, e, "bob").enter(t, channel)}
		for n, data := range numbered(4) {
			if _, err := rooms[n%2].Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "everybody else's", rooms[0].data(t, 2), []string{`{"n":2}`, `{"n":4}`})
		equal(t, "all", rooms[1].data(t, 4), numbered(4))
	})
}

func TestSignals(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "signals")
		channel := freshIn("signal")
		enter := func(user string) (*client, *room) {
			body := member(user, time.Hour)
			body["caps"] = []claims{{"channels": []string{"signal:*"}, "match": "wildcard", "allow": []string{"sub", "pub", "prs", "hst"}}}
			c := s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, body)})
			return c, c.enter(t, channel)
		}
		_, first := enter("alice")
		bob, second := enter("bob")
		for _, r := range []*room{first, second} {
			if began := r.subscribed.all()[0]; began.Recoverable || began.Positioned {
				t.Fatalf("%+v", began)
			}
		}
		for _, data := range numbered(30) {
			if _, err := first.Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range []*room{first, second} {
			equal(t, "data", r.data(t, 30), numbered(30))
			equal(t, "offsets", r.offsets(), make([]uint64, 30))
		}
		_, err := first.History(soon(t), centrifuge.WithHistoryLimit(1))
		wantCode(t, 108, err)
		// Who was away misses what came meanwhile, and gets what comes then.
		if err := bob.Disconnect(); err != nil {
			t.Fatal(err)
		}
		publish := func(data string) {
			t.Helper()
			if _, err := first.Publish(soon(t), []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		publish("30")
		if err := bob.Connect(); err != nil {
			t.Fatal(err)
		}
		second.subscribed.wait(t, "subscribed again", 2, nil)
		publish("31")
		equal(t, "data", second.data(t, 31)[30:], []string{"31"})
	})
}
