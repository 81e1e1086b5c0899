package main

import (
	"fmt"
	"syscall"

	"github.com/pingcap/kvproto/pkg/errorpb"
)

// reserved is how many bytes are kept for ending what has begun, as with TiKV's storage.reserve-space:
// commits, rollbacks and deletions of ranges go on below it, and what begins is refused.
const reserved = 32 << 20

// full says why nothing can begin; nil: there is space.
func (s *store) full() *errorpb.Error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.path, &disk); err != nil {
		return nil
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < reserved {
		reason := fmt.Sprintf("disk full: %d bytes are free, and %d are reserved", free, uint64(reserved))
		return &errorpb.Error{
			Message:  reason,
			DiskFull: &errorpb.DiskFull{StoreId: []uint64{s.member.id.Store}, Reason: reason},
		}
	}
	return nil
}
