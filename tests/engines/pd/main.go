// Command pd is TiKV's Placement Driver, the real one, without its dashboard: one member with its data in
// a directory, which serves gRPC and HTTP on loopback.
//
// It is a module of its own since PD and the store's library want different versions of etcd.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pingcap/log"
	"github.com/spf13/pflag"
	"github.com/tikv/pd/pkg/schedule/schedulers"
	"github.com/tikv/pd/pkg/utils/logutil"
	"github.com/tikv/pd/pkg/versioninfo"
	"github.com/tikv/pd/server"
	"github.com/tikv/pd/server/api"
	"github.com/tikv/pd/server/config"
)

// release is what PD says its version is: the module is of master between 8.0 and 8.1. Its own build
// sets it in the same variable.
const release = "v8.1.0-alpha"

func main() {
	data := flag.String("data-dir", "", "where the data is")
	port := flag.Int("port", 0, "port of clients")
	peerPort := flag.Int("peer-port", 0, "port of other members; there are none")
	advertised := flag.String("advertised", "", "HOST:PORT that clients are told; the port on loopback unless said")
	ready := flag.String("ready-file", "", "is made once requests are served")
	flag.Parse()
	if err := run(*data, *port, *peerPort, *advertised, *ready); err != nil {
		fmt.Fprintln(os.Stderr, "pd:", err)
		os.Exit(1)
	}
}

// configuration is what PD's own command line would make of these arguments.
func configuration(data string, port, peerPort int, advertised string) (*config.Config, error) {
	clients := fmt.Sprintf("http://127.0.0.1:%d", port)
	told := clients
	if advertised != "" {
		told = "http://" + advertised
	}
	peers := fmt.Sprintf("http://127.0.0.1:%d", peerPort)
	arguments := map[string]string{
		"name":                  "pd",
		"data-dir":              data,
		"client-urls":           clients,
		"advertise-client-urls": told,
		"peer-urls":             peers,
		"advertise-peer-urls":   peers,
		"initial-cluster":       "pd=" + peers,
		"log-level":             "warn",
	}
	flags := pflag.NewFlagSet("pd", pflag.ContinueOnError)
	for _, name := range []string{
		"config", "join", "metrics-addr", "log-file", "cacert", "cert", "key",
	} {
		flags.String(name, "", "")
	}
	flags.Bool("force-new-cluster", false, "")
	for name, value := range arguments {
		flags.String(name, value, "")
		if err := flags.Set(name, value); err != nil {
			return nil, err
		}
	}
	cfg := config.NewConfig()
	if err := cfg.Parse(flags); err != nil {
		return nil, err
	}
	// There is one store, so one copy.
	cfg.Replication.MaxReplicas = 1
	return cfg, nil
}

func run(data string, port, peerPort int, advertised, ready string) error {
	cfg, err := configuration(data, port, peerPort, advertised)
	if err != nil {
		return err
	}
	if err := logutil.SetupLogger(cfg.Log, &cfg.Logger, &cfg.LogProps, cfg.Security.RedactInfoLog); err != nil {
		return err
	}
	log.ReplaceGlobals(cfg.Logger, cfg.LogProps)
	schedulers.Register()
	versioninfo.PDReleaseVersion = release

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	svr, err := server.CreateServer(ctx, cfg, nil, api.NewHandler)
	if err != nil {
		return err
	}
	if err := svr.Run(); err != nil {
		return err
	}
	defer svr.Close()
	for !svr.GetMember().IsLeader() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	if ready != "" {
		if err := os.WriteFile(ready, nil, 0o644); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}
