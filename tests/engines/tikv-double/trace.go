package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/tikv/client-go/v2/tikvrpc"
)

// trace writes one line for what was asked of a transaction, from when until when, and what was answered:
// enough to tell afterwards what became of each.
func trace(began time.Time, request interface{}, answer *tikvrpc.Response, err error) {
	var asked string
	switch q := request.(type) {
	case *kvrpcpb.GetRequest:
		asked = fmt.Sprintf("get %x at=%d", q.GetKey(), q.GetVersion())
	case *kvrpcpb.PrewriteRequest:
		var value []byte
		for _, m := range q.GetMutations() {
			if bytes.Equal(m.GetKey(), q.GetPrimaryLock()) {
				value = m.GetValue()
			}
		}
		asked = fmt.Sprintf("prewrite %x start=%d keys=%d ttl=%d value=%x",
			q.GetPrimaryLock(), q.GetStartVersion(), len(q.GetMutations()), q.GetLockTtl(), value)
	case *kvrpcpb.CommitRequest:
		asked = fmt.Sprintf("commit %x start=%d commit=%d", q.GetKeys(), q.GetStartVersion(), q.GetCommitVersion())
	case *kvrpcpb.BatchRollbackRequest:
		asked = fmt.Sprintf("rollback %x start=%d", q.GetKeys(), q.GetStartVersion())
	case *kvrpcpb.CheckTxnStatusRequest:
		asked = fmt.Sprintf("status %x start=%d caller=%d now=%d",
			q.GetPrimaryKey(), q.GetLockTs(), q.GetCallerStartTs(), q.GetCurrentTs())
	case *kvrpcpb.ResolveLockRequest:
		asked = fmt.Sprintf("resolve start=%d commit=%d %v", q.GetStartVersion(), q.GetCommitVersion(), q.GetTxnInfos())
	default:
		return
	}
	var said interface{}
	if answer != nil {
		said = answer.Resp
	}
	fmt.Fprintf(os.Stderr, "%s %s: %s -> %v %v\n",
		began.Format(time.RFC3339Nano), time.Since(began), asked, said, err)
}
