// The unmodified SDK in both encodings, and waiting for what it reports.

package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type encoding struct {
	name string
	make func(endpoint string, config centrifuge.Config) *centrifuge.Client
}

// Data is bytes in both; these tests put JSON into them.
var encodings = []encoding{
	{"json", centrifuge.NewJsonClient},
	{"protobuf", centrifuge.NewProtobufClient},
}

// Runs a test in each encoding.
func each(t *testing.T, test func(t *testing.T, e encoding)) {
	for _, e := range encodings {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// What happened, in order, and a way to wait for it.
type log[T any] struct {
	lock  sync.Mutex
	seen  []T
	woken chan struct{}
}

func (l *log[T]) add(event T) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.seen = append(l.seen, event)
	if l.woken != nil {
		close(l.woken)
		l.woken = nil
	}
}

// A copy of everything so far.
func (l *log[T]) all() []T {
	l.lock.Lock()
	defer l.lock.Unlock()
	return append([]T(nil), l.seen...)
}

// Waits until there are so many events for which `is` holds, and gives these.
func (l *log[T]) wait(t testing.TB, what string, count int, is func(T) bool) []T {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		var found []T
		l.lock.Lock()
		for _, event := range l.seen {
			if is == nil || is(event) {
				found = append(found, event)
			}
		}
		if l.woken == nil {
			l.woken = make(chan struct{})
		}
		woken := l.woken
		l.lock.Unlock()
		if len(found) >= count {
			return found
		}
		select {
		case <-woken:
		case <-deadline.C:
			t.Fatalf("%s: not within %v; seen: %+v", what, patience, l.all())
		}
	}
}

// An SDK client with what it reported.
type client struct {
	*centrifuge.Client
	connected    log[centrifuge.ConnectedEvent]
	connecting   log[centrifuge.ConnectingEvent]
	disconnected log[centrifuge.DisconnectedEvent]
	errors       log[error]
	connection   atomic.Pointer[watched]
}

// A connection that keeps what was read from it.
type watched struct {
	*net.TCPConn
	lock sync.Mutex
	read []byte
}

func (w *watched) Read(into []byte) (int, error) {
	n, err := w.TCPConn.Read(into)
	w.lock.Lock()
	defer w.lock.Unlock()
	w.read = append(w.read, into[:n]...)
	return n, err
}

// Everything that came over the connection that it has now.
func (c *client) received() []byte {
	w := c.connection.Load()
	w.lock.Lock()
	defer w.lock.Unlock()
	return append([]byte(nil), w.read...)
}

// A client that is not yet connected.
func (s *server) client(t testing.TB, e encoding, config centrifuge.Config) *client {
	c := &client{}
	config.MinReconnectDelay = 50 * time.Millisecond
	config.MaxReconnectDelay = 400 * time.Millisecond
	config.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w := &watched{TCPConn: made.(*net.TCPConn)}
		c.connection.Store(w)
		return w, nil
	}
	c.Client = e.make(s.WS, config)
	c.OnConnected(c.connected.add)
	c.OnConnecting(c.connecting.add)
	c.OnDisconnected(c.disconnected.add)
	c.OnError(func(event centrifuge.ErrorEvent) { c.errors.add(event.Error) })
	t.Cleanup(c.Close)
	return c
}

// A connected client.
func (s *server) connect(t testing.TB, e encoding, user string) *client {
	t.Helper()
	return s.connectWith(t, e, centrifuge.Config{Token: s.sign(t, member(user, time.Hour))})
}

func (s *server) connectWith(t testing.TB, e encoding, config centrifuge.Config) *client {
	t.Helper()
	c := s.client(t, e, config)
	if err := c.Connect(); err != nil {
		t.Fatal(err)
	}
	c.connected.wait(t, "connected", 1, nil)
	return c
}

// Breaks the connection, as if the network were gone.
func (c *client) cut() {
	connection := c.connection.Load()
	_ = connection.SetLinger(0)
	_ = connection.Close()
}

// A subscription with everything that came of it.
type room struct {
	*centrifuge.Subscription
	publications log[centrifuge.PublicationEvent]
	subscribed   log[centrifuge.SubscribedEvent]
	unsubscribed log[centrifuge.UnsubscribedEvent]
	joins        log[centrifuge.JoinEvent]
	leaves       log[centrifuge.LeaveEvent]
}

// A subscription that does not begin yet.
func (c *client) room(t testing.TB, channel string, config centrifuge.SubscriptionConfig) *room {
	t.Helper()
	config.Positioned, config.Recoverable, config.JoinLeave = true, true, true
	made, err := c.NewSubscription(channel, config)
	if err != nil {
		t.Fatal(err)
	}
	r := &room{Subscription: made}
	r.OnPublication(r.publications.add)
	r.OnSubscribed(r.subscribed.add)
	r.OnUnsubscribed(r.unsubscribed.add)
	r.OnJoin(r.joins.add)
	r.OnLeave(r.leaves.add)
	return r
}

// A subscribed room.
func (c *client) enter(t testing.TB, channel string) *room {
	t.Helper()
	r := c.room(t, channel, centrifuge.SubscriptionConfig{})
	r.begin(t)
	return r
}

func (r *room) begin(t testing.TB) {
	t.Helper()
	if err := r.Subscribe(); err != nil {
		t.Fatal(err)
	}
	r.subscribed.wait(t, "subscribed to "+r.Channel, 1, nil)
}

// Waits for so many publications; their data.
func (r *room) data(t testing.TB, count int) []string {
	t.Helper()
	var data []string
	for _, event := range r.publications.wait(t, fmt.Sprintf("%d publications", count), count, nil) {
		data = append(data, string(event.Data))
	}
	return data
}

// The offsets of all publications.
func (r *room) offsets() []uint64 {
	var offsets []uint64
	for _, event := range r.publications.all() {
		offsets = append(offsets, event.Offset)
	}
	return offsets
}

var roomsMade atomic.Int64

// A room that no other test uses.
func freshRoom(name string) string {
	return fmt.Sprintf("room:%s-%d-%d", name, os.Getpid(), roomsMade.Add(1))
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

type published struct {
	Offset    uint64 `json:"offset"`
	Epoch     string `json:"epoch"`
	Time      int64  `json:"time"`
	Duplicate bool   `json:"duplicate"`
}

// `room.publish`: the durable publish. An empty id is none.
func (c *client) roomPublish(ctx context.Context, room, id, data string) (published, error) {
	request := claims{"room": room, "data": json.RawMessage(data)}
	if id != "" {
		request["id"] = id
	}
	text, err := json.Marshal(request)
	if err != nil {
		return published{}, err
	}
	answer, err := c.RPC(ctx, "room.publish", text)
	if err != nil {
		return published{}, err
	}
	var p published
	return p, json.Unmarshal(answer.Data, &p)
}

func (c *client) mustPublish(t testing.TB, room, id, data string) published {
	t.Helper()
	p, err := c.roomPublish(soon(t), room, id, data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Requires that the error is an answer of the server with this code, and some words.
func wantCode(t testing.TB, code uint32, err error) {
	t.Helper()
	var reply *centrifuge.Error
	if !errors.As(err, &reply) || reply.Code != code || reply.Message == "" {
		t.Fatalf("wanted error %d, got %v", code, err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = got[i] == want[i]
	}
	if !same {
		t.Fatalf("%s: got %v, wanted %v", what, got, want)
	}
}

// 1 to n.
func upTo(n int) []uint64 {
	numbers := make([]uint64, n)
	for i := range numbers {
		numbers[i] = uint64(i + 1)
	}
	return numbers
}

// `{"n":1}` to `{"n":n}`.
func numbered(n int) []string {
	data := make([]string, n)
	for i := range data {
		data[i] = fmt.Sprintf(`{"n":%d}`, i+1)
	}
	return data
}
