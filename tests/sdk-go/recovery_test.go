// Coming back: positions, recovery of what was missed, its bounds, and servers that die.

package sdk

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

func TestRecovery(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "recovery")
		channel := freshRoom("away")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		r := bob.enter(t, channel)
		data := numbered(31)
		for _, d := range data[:5] {
			alice.mustPublish(t, channel, "", d)
		}
		r.data(t, 5)
		if err := bob.Disconnect(); err != nil {
			t.Fatal(err)
		}
		for _, d := range data[5:30] {
			alice.mustPublish(t, channel, "", d)
		}
		if err := bob.Connect(); err != nil {
			t.Fatal(err)
		}
		r.data(t, 30)
		if again := r.subscribed.all()[1]; !again.WasRecovering || !again.Recovered {
			t.Fatalf("subscribed with %+v", again)
		}
		alice.mustPublish(t, channel, "", data[30])
		equal(t, "data", r.data(t, 31), data)
		equal(t, "offsets", r.offsets(), upTo(31))
	})
}

// Publishes numbered messages with ids, each until it is acknowledged, until it is told to stop.
type publisher struct {
	stop atomic.Bool
	done chan struct{}
	// How many were acknowledged, each with the offset that is its number.
	count int
	err   error
}

func publish(t *testing.T, c *client, channel string) *publisher {
	p := &publisher{done: make(chan struct{})}
	ctx := soon(t)
	go func() {
		defer close(p.done)
		for n := 1; !p.stop.Load(); n++ {
			for {
				answer, err := c.roomPublish(ctx, channel, fmt.Sprintf("m%d", n), fmt.Sprintf(`{"n":%d}`, n))
				if err == nil && answer.Offset != uint64(n) {
					p.err = fmt.Errorf("message %d got the offset %d", n, answer.Offset)
					return
				}
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					p.err = fmt.Errorf("message %d: %w", n, err)
					return
				}
				// With the same id again: whether it was written is not known.
				time.Sleep(20 * time.Millisecond)
			}
			p.count = n
		}
	}()
	return p
}

func (p *publisher) end(t *testing.T) int {
	t.Helper()
	p.stop.Store(true)
	<-p.done
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.count
}

// Breaks something several times under load, and requires that a reader sees every message once.
func breaks(t *testing.T, alice, bob *client, breakIt func()) {
	t.Helper()
	channel := freshRoom("breaks")
	r := bob.enter(t, channel)
	p := publish(t, alice, channel)
	for n := range 4 {
		r.data(t, len(r.publications.all())+20)
		breakIt()
		bob.connected.wait(t, "connected again", n+2, nil)
	}
	r.data(t, len(r.publications.all())+20)
	count := p.end(t)
	equal(t, "data", r.data(t, count), numbered(count))
	equal(t, "offsets", r.offsets(), upTo(count))
	for _, again := range r.subscribed.all()[1:] {
		if !again.WasRecovering || !again.Recovered {
			t.Fatalf("subscribed with %+v", again)
		}
	}
}

func TestCut(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "cut")
		bob := s.connect(t, e, "bob")
		breaks(t, s.connect(t, e, "alice"), bob, bob.cut)
	})
}

func TestRestart(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "restart")
		breaks(t, s.connect(t, e, "alice"), s.connect(t, e, "bob"), func() {
			s.kill()
			s.start(t)
		})
	})
}

func TestUnrecoverable(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "unrecoverable")
		channel := freshRoom("bound")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		r := bob.enter(t, channel)
		alice.mustPublish(t, channel, "", "{}")
		r.data(t, 1)
		if err := bob.Disconnect(); err != nil {
			t.Fatal(err)
		}
		large := fmt.Sprintf(`{"filling":%q}`, strings.Repeat("x", 60_000))
		for range 12 {
			if _, err := alice.Publish(soon(t), channel, []byte(large)); err != nil {
				t.Fatal(err)
			}
		}
		if err := bob.Connect(); err != nil {
			t.Fatal(err)
		}
		again := r.subscribed.wait(t, "subscribed again", 2, nil)[1]
		if !again.WasRecovering || again.Recovered || again.StreamPosition.Offset != 13 {
			t.Fatalf("subscribed with %+v", again)
		}
		// The application pages.
		seen := []uint64{1}
		for seen[len(seen)-1] < 13 {
			since := &centrifuge.StreamPosition{Offset: seen[len(seen)-1], Epoch: again.StreamPosition.Epoch}
			page, err := r.History(soon(t), centrifuge.WithHistoryLimit(300), centrifuge.WithHistorySince(since))
			if err != nil || len(page.Publications) == 0 {
				t.Fatalf("%+v, %v", page, err)
			}
			for _, publication := range page.Publications {
				seen = append(seen, publication.Offset)
			}
		}
		equal(t, "paged", seen, upTo(13))
		equal(t, "delivered", r.offsets(), upTo(1))
	})
}

func TestPosition(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "position", "unrecoverable")
		channel := freshRoom("since")
		alice := s.connect(t, e, "alice")
		var epoch string
		for _, data := range numbered(5) {
			epoch = alice.mustPublish(t, channel, "", data).Epoch
		}
		// A wrong epoch first: error 112, and the application is asked again.
		epochs := make(chan string, 2)
		epochs <- "other"
		epochs <- epoch
		r := alice.room(t, channel, centrifuge.SubscriptionConfig{
			GetState: func(centrifuge.SubscriptionGetStateEvent) (centrifuge.StreamPosition, error) {
				return centrifuge.StreamPosition{Offset: 2, Epoch: <-epochs}, nil
			},
		})
		r.begin(t)
		equal(t, "data", r.data(t, 3), numbered(5)[2:])
		equal(t, "offsets", r.offsets(), []uint64{3, 4, 5})
	})
}

func TestManyRooms(t *testing.T) {
	s := startServer(t)
	each(t, func(t *testing.T, e encoding) {
		proves(t, e, "many-rooms")
		alice, bob := s.connect(t, e, "alice"), s.connect(t, e, "bob")
		name := freshRoom("all")
		var rooms []*room
		for n := range 400 {
			r := bob.room(t, fmt.Sprintf("%s-%d", name, n), centrifuge.SubscriptionConfig{})
			if err := r.Subscribe(); err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, r)
		}
		for _, r := range rooms {
			r.subscribed.wait(t, "subscribed to "+r.Channel, 1, nil)
		}
		if err := bob.Disconnect(); err != nil {
			t.Fatal(err)
		}
		for _, r := range rooms {
			alice.mustPublish(t, r.Channel, "", fmt.Sprintf("%q", r.Channel))
		}
		if err := bob.Connect(); err != nil {
			t.Fatal(err)
		}
		for _, r := range rooms {
			equal(t, "data", r.data(t, 1), []string{fmt.Sprintf("%q", r.Channel)})
			if again := r.subscribed.all()[1]; !again.Recovered {
				t.Fatalf("%s: %+v", r.Channel, again)
			}
		}
	})
}
