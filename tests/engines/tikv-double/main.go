// Command tikv-double is a test double of TiKV, not TiKV: the transactional part of its gRPC service
// (Percolator: prewrite, commit, locks and their resolution, snapshot reads) on mocktikv, the store that
// PingCAP wrote for the tests of its Go client, registered in a real PD.
//
// What it shows: that a client speaks the protocol, finds regions through PD and keeps to the rules of
// transactions, also when a process dies in the middle, since every write is in the file system before
// it is answered, or when its disk is full. What it does not: nothing is synced, so it says nothing about
// a power cut; there is one store, no Raft and no splitting by itself (regions are fixed by -split at the
// first start); there is neither async commit nor one-phase commit nor RawKV; its speed is no measure of
// TiKV's.
package main

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
)

// A message of a batch of prewrites is far below; TiKV takes 8 MiB in one Raft entry.
const maxMessage = 32 << 20

func main() {
	data := flag.String("data-dir", "", "where the data is")
	port := flag.Int("port", 0, "port of clients")
	pd := flag.String("pd", "", "HOST:PORT of PD")
	advertised := flag.String("advertised", "", "HOST:PORT that clients are told; the port on loopback unless said")
	split := flag.String("split", "", "first keys of further regions, in hex, in order, with commas between")
	traced := flag.Bool("trace", false, "write what is done to transactions to standard error")
	ready := flag.String("ready-file", "", "is made once requests are served and PD knows the regions")
	flag.Parse()
	if err := run(*data, *port, *pd, *advertised, *split, *ready, *traced); err != nil {
		fmt.Fprintln(os.Stderr, "tikv-double:", err)
		os.Exit(1)
	}
}

func splitKeys(text string) ([][]byte, error) {
	var keys [][]byte
	if text == "" {
		return nil, nil
	}
	for _, word := range strings.Split(text, ",") {
		key, err := hex.DecodeString(word)
		if err != nil || len(key) == 0 {
			return nil, fmt.Errorf("-split: %q is no key in hex", word)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func run(data string, port int, pdAddress, advertised, split, ready string, traced bool) error {
	keys, err := splitKeys(split)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if advertised == "" {
		advertised = address
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	pd, err := connect(ctx, pdAddress)
	if err != nil {
		return err
	}
	member, err := join(ctx, pd, filepath.Join(data, "store.json"), advertised, keys)
	if err != nil {
		return err
	}
	store, err := openStore(filepath.Join(data, "mvcc"), member, traced)
	if err != nil {
		return err
	}
	defer store.close()

	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(recovered),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
	)
	tikvpb.RegisterTikvServer(server, store)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	known := make(chan struct{})
	go member.report(ctx, known)
	for {
		select {
		case <-known:
			known = nil
			if ready != "" {
				if err := os.WriteFile(ready, nil, 0o644); err != nil {
					return err
				}
			}
		case err := <-served:
			return err
		case <-ctx.Done():
			server.Stop()
			return nil
		}
	}
}
