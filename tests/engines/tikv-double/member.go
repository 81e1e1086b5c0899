package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"google.golang.org/grpc"
)

const (
	// How long PD may take for one answer.
	pdTimeout = 5 * time.Second
	// How long PD may take to be there at the start.
	pdPatience = 60 * time.Second
	// How often PD is told of store and regions, and how soon again after it was away.
	reportEvery = 3 * time.Second
	reportAgain = 200 * time.Millisecond
	// The version of TiKV whose protocol this is, for PD's check of compatibility.
	tikvVersion = "7.5.0"
)

// identity is what the store must know again after a restart.
type identity struct {
	Cluster uint64    `json:"cluster"`
	Store   uint64    `json:"store"`
	Regions []*region `json:"regions"`
}

// region is a range of keys [Start, End) in PD's order-preserving encoding; an empty End is no end.
type region struct {
	ID      uint64 `json:"id"`
	Peer    uint64 `json:"peer"`
	Start   []byte `json:"start"`
	End     []byte `json:"end"`
	Version uint64 `json:"version"`
}

func (r *region) contains(encoded []byte) bool {
	return bytes.Compare(r.Start, encoded) <= 0 && (len(r.End) == 0 || bytes.Compare(encoded, r.End) < 0)
}

func (r *region) meta(store uint64) *metapb.Region {
	return &metapb.Region{
		Id:          r.ID,
		StartKey:    r.Start,
		EndKey:      r.End,
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: r.Version},
		Peers:       []*metapb.Peer{r.peer(store)},
	}
}

func (r *region) peer(store uint64) *metapb.Peer {
	return &metapb.Peer{Id: r.Peer, StoreId: store}
}

// member is the store as PD sees it.
type member struct {
	pd      pdpb.PDClient
	id      identity
	meta    *metapb.Store
	started time.Time
	data    string
}

// connect waits until PD has a leader.
func connect(ctx context.Context, address string) (pdpb.PDClient, error) {
	connection, err := grpc.DialContext(ctx, address, grpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	pd := pdpb.NewPDClient(connection)
	deadline := time.Now().Add(pdPatience)
	for {
		err := attempt(ctx, func(ctx context.Context) error {
			answer, err := pd.GetMembers(ctx, &pdpb.GetMembersRequest{})
			if err == nil && answer.GetLeader() == nil {
				err = errors.New("it has no leader")
			}
			return err
		})
		if err == nil {
			return pd, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, fmt.Errorf("PD at %s does not answer: %w", address, err)
		}
		time.Sleep(reportAgain)
	}
}

func attempt(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pdTimeout)
	defer cancel()
	return do(ctx)
}

func failed(header *pdpb.ResponseHeader, err error) error {
	if err == nil && header.GetError() != nil {
		err = errors.New(header.GetError().GetMessage())
	}
	return err
}

// join makes the store known to PD, the first of its cluster or the same as before.
func join(ctx context.Context, pd pdpb.PDClient, file, address string, split [][]byte) (*member, error) {
	m := &member{pd: pd, started: time.Now(), data: file}
	var cluster uint64
	err := attempt(ctx, func(ctx context.Context) error {
		answer, err := pd.GetMembers(ctx, &pdpb.GetMembersRequest{})
		cluster = answer.GetHeader().GetClusterId()
		return failed(answer.GetHeader(), err)
	})
	if err != nil {
		return nil, err
	}
	if err := m.identify(ctx, file, cluster, split); err != nil {
		return nil, err
	}
	m.meta = &metapb.Store{Id: m.id.Store, Address: address, StatusAddress: address, Version: tikvVersion}
	bootstrapped := false
	err = attempt(ctx, func(ctx context.Context) error {
		answer, err := pd.IsBootstrapped(ctx, &pdpb.IsBootstrappedRequest{Header: m.header()})
		bootstrapped = answer.GetBootstrapped()
		return failed(answer.GetHeader(), err)
	})
	if err == nil && !bootstrapped {
		// PD wants one region of everything first; those that it is split into are reported.
		first := *m.id.Regions[0]
		first.Start, first.End, first.Version = nil, nil, 1
		err = attempt(ctx, func(ctx context.Context) error {
			answer, err := pd.Bootstrap(ctx, &pdpb.BootstrapRequest{
				Header: m.header(), Store: m.meta, Region: first.meta(m.id.Store),
			})
			return failed(answer.GetHeader(), err)
		})
	}
	if err == nil {
		err = attempt(ctx, func(ctx context.Context) error {
			answer, err := pd.PutStore(ctx, &pdpb.PutStoreRequest{Header: m.header(), Store: m.meta})
			return failed(answer.GetHeader(), err)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("PD does not take the store: %w", err)
	}
	return m, nil
}

func (m *member) header() *pdpb.RequestHeader {
	return &pdpb.RequestHeader{ClusterId: m.id.Cluster}
}

// identify reads who the store is, or gives it ids of PD and its regions, once.
func (m *member) identify(ctx context.Context, file string, cluster uint64, split [][]byte) error {
	text, err := os.ReadFile(file)
	if err == nil {
		if err := json.Unmarshal(text, &m.id); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if m.id.Cluster != cluster {
			return fmt.Errorf("the data is of cluster %d, and PD's is %d: start both on data of one cluster", m.id.Cluster, cluster)
		}
		return nil
	}
	if !os.IsNotExist(err) {
		return err
	}
	m.id = identity{Cluster: cluster}
	next := func() (id uint64, err error) {
		err = attempt(ctx, func(ctx context.Context) error {
			answer, err := m.pd.AllocID(ctx, &pdpb.AllocIDRequest{Header: m.header()})
			id = answer.GetId()
			return failed(answer.GetHeader(), err)
		})
		return id, err
	}
	if m.id.Store, err = next(); err != nil {
		return err
	}
	for i := 0; i <= len(split); i++ {
		r := &region{Version: uint64(1 + len(split))}
		if i > 0 {
			r.Start = encode(split[i-1])
		}
		if i < len(split) {
			r.End = encode(split[i])
		}
		if len(r.End) > 0 && bytes.Compare(r.Start, r.End) >= 0 {
			return errors.New("-split: the keys are not in order")
		}
		if r.ID, err = next(); err != nil {
			return err
		}
		if r.Peer, err = next(); err != nil {
			return err
		}
		m.id.Regions = append(m.id.Regions, r)
	}
	if text, err = json.Marshal(m.id); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// report tells PD of the store and its regions for ever, and closes known when PD first has them all.
func (m *member) report(ctx context.Context, known chan<- struct{}) {
	for ctx.Err() == nil {
		// PD forgets who leads a region when it restarts: the stream breaks then, and is made again.
		if err := m.stream(ctx, &known); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, time.Now().Format(time.RFC3339), "PD:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reportAgain):
		}
	}
}

func (m *member) stream(ctx context.Context, known *chan<- struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := m.pd.RegionHeartbeat(ctx)
	if err != nil {
		return err
	}
	// PD's answers are wishes to move regions, and there is nowhere to move them.
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	for {
		if err := m.storeHeartbeat(ctx); err != nil {
			return err
		}
		for _, r := range m.id.Regions {
			err := stream.Send(&pdpb.RegionHeartbeatRequest{
				Header:          m.header(),
				Region:          r.meta(m.id.Store),
				Leader:          r.peer(m.id.Store),
				ApproximateSize: 1,
				Term:            1,
			})
			if err != nil {
				return err
			}
		}
		wait := reportEvery
		if *known != nil {
			if m.isKnown(ctx) {
				close(*known)
				*known = nil
			} else {
				wait = reportAgain
			}
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(wait):
		}
	}
}

func (m *member) storeHeartbeat(ctx context.Context) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(m.data, &disk); err != nil {
		return err
	}
	return attempt(ctx, func(ctx context.Context) error {
		answer, err := m.pd.StoreHeartbeat(ctx, &pdpb.StoreHeartbeatRequest{
			Header: m.header(),
			Stats: &pdpb.StoreStats{
				StoreId:     m.id.Store,
				Capacity:    disk.Blocks * uint64(disk.Bsize),
				Available:   disk.Bavail * uint64(disk.Bsize),
				RegionCount: uint32(len(m.id.Regions)),
				StartTime:   uint32(m.started.Unix()),
			},
		})
		return failed(answer.GetHeader(), err)
	})
}

// isKnown says whether PD leads clients to every region.
func (m *member) isKnown(ctx context.Context) bool {
	for _, r := range m.id.Regions {
		err := attempt(ctx, func(ctx context.Context) error {
			answer, err := m.pd.GetRegion(ctx, &pdpb.GetRegionRequest{Header: m.header(), RegionKey: r.Start})
			if err := failed(answer.GetHeader(), err); err != nil {
				return err
			}
			if answer.GetRegion().GetId() != r.ID || answer.GetLeader().GetId() != r.Peer {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil {
			return false
		}
	}
	return true
}
