package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/tikv/client-go/v2/testutils"
	"github.com/tikv/client-go/v2/tikvrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// inside is the name and the id of the only store and region that mocktikv sees; regions are checked here.
const (
	insideAddress = "store"
	insideRegion  = 1
)

// store answers TiKV's requests. What is not here answers Unimplemented.
type store struct {
	tikvpb.UnimplementedTikvServer
	member *member
	mock   *testutils.MockClient
	// Where its data is.
	path string
	// What is done to transactions is written to standard error.
	traced bool
}

func openStore(path string, m *member, traced bool) (*store, error) {
	mock, cluster, _, err := testutils.NewMockTiKV(path, nil)
	if err != nil {
		return nil, err
	}
	cluster.AddStore(m.id.Store, insideAddress)
	cluster.Bootstrap(insideRegion, []uint64{m.id.Store}, []uint64{1}, 1)
	return &store{member: m, mock: mock, path: path, traced: traced}, nil
}

func (s *store) close() {
	if err := s.mock.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "tikv-double:", err)
	}
}

// recovered makes an error of a panic: mocktikv panics where a request breaks its rules.
func recovered(
	ctx context.Context, request interface{}, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (answer interface{}, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s", info.FullMethod, cause, debug.Stack())
			err = status.Errorf(codes.Internal, "%s: %v", info.FullMethod, cause)
		}
	}()
	return handler(ctx, request)
}

// locate finds the region that a request names and checks that it is as the client believes, and that
// the keys are in it.
func (s *store) locate(c *kvrpcpb.Context, keys ...[]byte) (*region, *errorpb.Error) {
	var found *region
	for _, r := range s.member.id.Regions {
		if r.ID == c.GetRegionId() {
			found = r
		}
	}
	if found == nil {
		return nil, &errorpb.Error{
			Message:        "region not found",
			RegionNotFound: &errorpb.RegionNotFound{RegionId: c.GetRegionId()},
		}
	}
	if id := c.GetPeer().GetStoreId(); id != s.member.id.Store {
		return nil, &errorpb.Error{
			Message:       "store not match",
			StoreNotMatch: &errorpb.StoreNotMatch{RequestStoreId: id, ActualStoreId: s.member.id.Store},
		}
	}
	epoch := c.GetRegionEpoch()
	if epoch.GetConfVer() != 1 || epoch.GetVersion() != found.Version {
		return nil, &errorpb.Error{
			Message:       "epoch not match",
			EpochNotMatch: &errorpb.EpochNotMatch{CurrentRegions: []*metapb.Region{found.meta(s.member.id.Store)}},
		}
	}
	for _, key := range keys {
		if !found.contains(encode(key)) {
			return nil, &errorpb.Error{
				Message: "key not in region",
				KeyNotInRegion: &errorpb.KeyNotInRegion{
					Key: key, RegionId: found.ID, StartKey: found.Start, EndKey: found.End,
				},
			}
		}
	}
	return found, nil
}

// ask passes a request on to mocktikv, whose one region is everything.
func ask[Answer any](ctx context.Context, s *store, kind tikvrpc.CmdType, request interface{}, c *kvrpcpb.Context) (Answer, error) {
	inside := kvrpcpb.Context{
		RegionId:       insideRegion,
		RegionEpoch:    &metapb.RegionEpoch{},
		IsolationLevel: c.GetIsolationLevel(),
		ResolvedLocks:  c.GetResolvedLocks(),
	}
	var none Answer
	began := time.Now()
	answer, err := s.mock.SendRequest(ctx, insideAddress, tikvrpc.NewRequest(kind, request, inside), 0)
	if s.traced {
		trace(began, request, answer, err)
	}
	if err != nil {
		return none, status.Error(codes.Internal, err.Error())
	}
	typed, ok := answer.Resp.(Answer)
	if !ok {
		return none, status.Errorf(codes.Internal, "%T is no answer to %T", answer.Resp, request)
	}
	return typed, nil
}

// within cuts [start, end) to the region's keys.
func within(r *region, start, end []byte) ([]byte, []byte) {
	if first := decode(r.Start); bytes.Compare(start, first) < 0 {
		start = first
	}
	if last := decode(r.End); len(last) > 0 && (len(end) == 0 || bytes.Compare(last, end) < 0) {
		end = last
	}
	return start, end
}

func (s *store) KvGet(ctx context.Context, q *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKey()); e != nil {
		return &kvrpcpb.GetResponse{RegionError: e}, nil
	}
	answer, err := ask[*kvrpcpb.GetResponse](ctx, s, tikvrpc.CmdGet, q, q.GetContext())
	if err == nil && answer.Error == nil && len(answer.Value) == 0 {
		// mocktikv does not say it; TiKV stores no empty values in transactions.
		answer.NotFound = true
	}
	return answer, err
}

func (s *store) KvBatchGet(ctx context.Context, q *kvrpcpb.BatchGetRequest) (*kvrpcpb.BatchGetResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKeys()...); e != nil {
		return &kvrpcpb.BatchGetResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.BatchGetResponse](ctx, s, tikvrpc.CmdBatchGet, q, q.GetContext())
}

func (s *store) KvScan(ctx context.Context, q *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	// A scan backwards goes from StartKey, which is not in it, down to EndKey.
	low, high := q.GetStartKey(), q.GetEndKey()
	if q.GetReverse() {
		low, high = high, low
	}
	r, e := s.locate(q.GetContext())
	if e != nil {
		return &kvrpcpb.ScanResponse{RegionError: e}, nil
	}
	low, high = within(r, low, high)
	if len(high) > 0 && bytes.Compare(low, high) >= 0 {
		return &kvrpcpb.ScanResponse{}, nil
	}
	inside := *q
	inside.StartKey, inside.EndKey = low, high
	if q.GetReverse() {
		inside.StartKey, inside.EndKey = high, low
	}
	answer, err := ask[*kvrpcpb.ScanResponse](ctx, s, tikvrpc.CmdScan, &inside, q.GetContext())
	if err == nil && q.GetKeyOnly() {
		for _, pair := range answer.Pairs {
			pair.Value = nil
		}
	}
	return answer, err
}

func (s *store) KvPrewrite(ctx context.Context, q *kvrpcpb.PrewriteRequest) (*kvrpcpb.PrewriteResponse, error) {
	if q.GetUseAsyncCommit() {
		return nil, status.Error(codes.Unimplemented, "this double of TiKV has no async commit")
	}
	var keys [][]byte
	for _, m := range q.GetMutations() {
		keys = append(keys, m.GetKey())
	}
	if _, e := s.locate(q.GetContext(), keys...); e != nil {
		return &kvrpcpb.PrewriteResponse{RegionError: e}, nil
	}
	if e := s.full(); e != nil {
		return &kvrpcpb.PrewriteResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.PrewriteResponse](ctx, s, tikvrpc.CmdPrewrite, q, q.GetContext())
}

func (s *store) KvCommit(ctx context.Context, q *kvrpcpb.CommitRequest) (*kvrpcpb.CommitResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKeys()...); e != nil {
		return &kvrpcpb.CommitResponse{RegionError: e}, nil
	}
	answer, err := ask[*kvrpcpb.CommitResponse](ctx, s, tikvrpc.CmdCommit, q, q.GetContext())
	if err == nil && answer.Error == nil {
		answer.CommitVersion = q.GetCommitVersion()
	}
	return answer, err
}

func (s *store) KvBatchRollback(ctx context.Context, q *kvrpcpb.BatchRollbackRequest) (*kvrpcpb.BatchRollbackResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKeys()...); e != nil {
		return &kvrpcpb.BatchRollbackResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.BatchRollbackResponse](ctx, s, tikvrpc.CmdBatchRollback, q, q.GetContext())
}

func (s *store) KvCleanup(ctx context.Context, q *kvrpcpb.CleanupRequest) (*kvrpcpb.CleanupResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKey()); e != nil {
		return &kvrpcpb.CleanupResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.CleanupResponse](ctx, s, tikvrpc.CmdCleanup, q, q.GetContext())
}

func (s *store) KvPessimisticLock(ctx context.Context, q *kvrpcpb.PessimisticLockRequest) (*kvrpcpb.PessimisticLockResponse, error) {
	var keys [][]byte
	for _, m := range q.GetMutations() {
		keys = append(keys, m.GetKey())
	}
	if _, e := s.locate(q.GetContext(), keys...); e != nil {
		return &kvrpcpb.PessimisticLockResponse{RegionError: e}, nil
	}
	if e := s.full(); e != nil {
		return &kvrpcpb.PessimisticLockResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.PessimisticLockResponse](ctx, s, tikvrpc.CmdPessimisticLock, q, q.GetContext())
}

func (s *store) KVPessimisticRollback(ctx context.Context, q *kvrpcpb.PessimisticRollbackRequest) (*kvrpcpb.PessimisticRollbackResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetKeys()...); e != nil {
		return &kvrpcpb.PessimisticRollbackResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.PessimisticRollbackResponse](ctx, s, tikvrpc.CmdPessimisticRollback, q, q.GetContext())
}

func (s *store) KvTxnHeartBeat(ctx context.Context, q *kvrpcpb.TxnHeartBeatRequest) (*kvrpcpb.TxnHeartBeatResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetPrimaryLock()); e != nil {
		return &kvrpcpb.TxnHeartBeatResponse{RegionError: e}, nil
	}
	return ask[*kvrpcpb.TxnHeartBeatResponse](ctx, s, tikvrpc.CmdTxnHeartBeat, q, q.GetContext())
}

func (s *store) KvCheckTxnStatus(ctx context.Context, q *kvrpcpb.CheckTxnStatusRequest) (*kvrpcpb.CheckTxnStatusResponse, error) {
	if _, e := s.locate(q.GetContext(), q.GetPrimaryKey()); e != nil {
		return &kvrpcpb.CheckTxnStatusResponse{RegionError: e}, nil
	}
	answer, err := ask[*kvrpcpb.CheckTxnStatusResponse](ctx, s, tikvrpc.CmdCheckTxnStatus, q, q.GetContext())
	if err == nil && answer.Error == nil && answer.LockTtl > 0 {
		// mocktikv leaves it out; clients take it from here.
		answer.LockInfo = &kvrpcpb.LockInfo{
			PrimaryLock: q.GetPrimaryKey(),
			Key:         q.GetPrimaryKey(),
			LockVersion: q.GetLockTs(),
			LockTtl:     answer.LockTtl,
		}
	}
	return answer, err
}

func (s *store) KvScanLock(_ context.Context, q *kvrpcpb.ScanLockRequest) (*kvrpcpb.ScanLockResponse, error) {
	r, e := s.locate(q.GetContext())
	if e != nil {
		return &kvrpcpb.ScanLockResponse{RegionError: e}, nil
	}
	start, end := within(r, q.GetStartKey(), q.GetEndKey())
	locks, err := s.mock.MvccStore.ScanLock(start, end, q.GetMaxVersion())
	if err != nil {
		return &kvrpcpb.ScanLockResponse{Error: &kvrpcpb.KeyError{Abort: err.Error()}}, nil
	}
	if limit := int(q.GetLimit()); limit > 0 && len(locks) > limit {
		locks = locks[:limit]
	}
	return &kvrpcpb.ScanLockResponse{Locks: locks}, nil
}

func (s *store) KvResolveLock(_ context.Context, q *kvrpcpb.ResolveLockRequest) (*kvrpcpb.ResolveLockResponse, error) {
	r, e := s.locate(q.GetContext(), q.GetKeys()...)
	if e != nil {
		return &kvrpcpb.ResolveLockResponse{RegionError: e}, nil
	}
	if s.traced {
		trace(time.Now(), q, nil, nil)
	}
	// Of this region only: a client that leaves out another one must see its locks stay.
	start, end := within(r, nil, nil)
	resolved := map[uint64]uint64{q.GetStartVersion(): q.GetCommitVersion()}
	if len(q.GetTxnInfos()) > 0 {
		resolved = map[uint64]uint64{}
		for _, info := range q.GetTxnInfos() {
			resolved[info.GetTxn()] = info.GetStatus()
		}
	}
	if err := s.mock.MvccStore.BatchResolveLock(start, end, resolved); err != nil {
		return &kvrpcpb.ResolveLockResponse{Error: &kvrpcpb.KeyError{Abort: err.Error()}}, nil
	}
	return &kvrpcpb.ResolveLockResponse{}, nil
}

func (s *store) KvGC(_ context.Context, q *kvrpcpb.GCRequest) (*kvrpcpb.GCResponse, error) {
	r, e := s.locate(q.GetContext())
	if e != nil {
		return &kvrpcpb.GCResponse{RegionError: e}, nil
	}
	start, end := within(r, nil, nil)
	if err := s.mock.MvccStore.GC(start, end, q.GetSafePoint()); err != nil {
		return &kvrpcpb.GCResponse{Error: &kvrpcpb.KeyError{Abort: err.Error()}}, nil
	}
	return &kvrpcpb.GCResponse{}, nil
}

func (s *store) KvDeleteRange(_ context.Context, q *kvrpcpb.DeleteRangeRequest) (*kvrpcpb.DeleteRangeResponse, error) {
	r, e := s.locate(q.GetContext(), q.GetStartKey())
	if e != nil {
		return &kvrpcpb.DeleteRangeResponse{RegionError: e}, nil
	}
	start, end := within(r, q.GetStartKey(), q.GetEndKey())
	if err := s.mock.MvccStore.DeleteRange(start, end); err != nil {
		return &kvrpcpb.DeleteRangeResponse{Error: err.Error()}, nil
	}
	return &kvrpcpb.DeleteRangeResponse{}, nil
}

// UnsafeDestroyRange goes past regions and transactions, as in TiKV.
func (s *store) UnsafeDestroyRange(_ context.Context, q *kvrpcpb.UnsafeDestroyRangeRequest) (*kvrpcpb.UnsafeDestroyRangeResponse, error) {
	if err := s.mock.MvccStore.DeleteRange(q.GetStartKey(), q.GetEndKey()); err != nil {
		return &kvrpcpb.UnsafeDestroyRangeResponse{Error: err.Error()}, nil
	}
	return &kvrpcpb.UnsafeDestroyRangeResponse{}, nil
}
