package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Interface is the name of a pod's interface: what the kubelet and NetworkPolicy
// implementations expect.
const Interface = "eth0"

// undoBudget bounds the DEL after an ADD that failed, whose caller may be gone.
const undoBudget = 30 * time.Second

// Options configure a Network.
type Options struct {
	// ConfDir holds the network configurations, BinDirs the plugins: the first
	// directory that has a plugin wins.
	ConfDir string
	BinDirs []string
	// Root is a directory that survives reboots; the ledger lies in it.
	Root string
	Log  *slog.Logger
}

// Network is the pod network of the node. Its methods are safe for concurrent use, as
// long as calls for one attachment do not overlap.
type Network struct {
	confDir string
	binDirs []string
	ledger  ledger
	cni     *libcni.CNIConfig
	log     *slog.Logger
	// unsettled are the attachments one of whose plugins may still be at work: those of an
	// earlier daemon, and those with a call that has run out of time.
	unsettled sync.Map
}

// Open makes the ledger's directory if need be. It does not need a configuration.
func Open(o Options) (*Network, error) {
	led := ledger(filepath.Join(o.Root, "attachments"))
	if err := os.MkdirAll(string(led), 0o700); err != nil {
		return nil, fmt.Errorf("make attachment ledger: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{
		confDir: o.ConfDir,
		binDirs: o.BinDirs,
		ledger:  led,
		cni:     libcni.NewCNIConfigWithCacheDir(o.BinDirs, filepath.Join(o.Root, "cache"), newPluginExec()),
		log:     o.Log,
	}
	ids, err := led.ids()
	for _, id := range ids {
		n.unsettled.Store(id, true)
	}
	return n, err
}

// Status is nil if pods can be connected; else it says what is missing, wrapping
// errdefs.ErrUnavailable. Plugins are asked if the configuration's version has STATUS.
func (n *Network) Status(ctx context.Context) error {
	list, err := n.load()
	if err != nil {
		return err
	}
	if err := n.findPlugins(list); err != nil {
		return err
	}
	if err := n.cni.GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("network %q is not ready: %w: %w", list.Name, errdefs.ErrUnavailable, err)
	}
	return nil
}

// Add connects a pod's network namespace and returns its addresses, the primary one
// first: the first IPv4 address if there is one. If it fails nothing stays connected;
// should even that not succeed, List still names it and Del deletes the rest later.
func (n *Network) Add(ctx context.Context, p Pod) ([]netip.Addr, error) {
	list, err := n.load()
	if err != nil {
		return nil, err
	}
	if err := n.findPlugins(list); err != nil {
		return nil, err
	}
	a, err := newAttachment(p, list)
	if err != nil {
		return nil, err
	}
	if err := n.ledger.put(a); err != nil {
		return nil, err
	}
	result, err := n.cni.AddNetworkList(ctx, list, a.runtimeConf())
	if err == nil {
		var ips []netip.Addr
		if ips, err = addresses(result); err == nil {
			return ips, nil
		}
	}
	n.noteCutShort(ctx, p.ID)
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	return nil, errors.Join(fmt.Errorf("connect to network %q: %w: %w", list.Name, kind(err), err), n.Del(undo, p.ID))
}

// Del disconnects a pod, with the configuration that it was connected with; its
// addresses are free afterwards. It is idempotent. The network namespace may be gone.
func (n *Network) Del(ctx context.Context, id string) error {
	a, err := n.ledger.get(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		// A torn record: the present configuration is the best guess there is.
		n.log.Warn("network attachment record is unreadable", "sandbox", id, "error", err)
		a = attachment{ID: id}
	}
	if _, ok := n.unsettled.Load(id); ok {
		if err := endOrphans(ctx, id); err != nil {
			return err
		}
		n.unsettled.Delete(id)
	}
	list, err := n.listOf(a)
	if err != nil {
		return err
	}
	if err := n.cni.DelNetworkList(ctx, list, a.runtimeConf()); err != nil {
		n.noteCutShort(ctx, id)
		return fmt.Errorf("disconnect from network %q: %w: %w", list.Name, kind(err), err)
	}
	return n.ledger.remove(id)
}

// noteCutShort is for calls that have failed: if their time was up, what their plugins have
// started may still lease an address that the next DEL would not find.
func (n *Network) noteCutShort(ctx context.Context, id string) {
	if ctx.Err() != nil {
		n.unsettled.Store(id, true)
	}
}

func (n *Network) listOf(a attachment) (*libcni.NetworkConfigList, error) {
	if len(a.Plugins) == 0 {
		return n.load()
	}
	return a.list()
}

// List names the pods that the ledger has an attachment of, whole or begun: those among
// them that nobody knows are garbage, for Del. Plugins are never told to collect garbage
// by themselves (the GC verb of CNI 1.1): they would take away the pods of every other
// runtime that has a network of that name.
func (n *Network) List() ([]string, error) { return n.ledger.ids() }

// addresses takes the pod's own addresses out of a result; interfaces of the host's
// side have some too.
func addresses(r types.Result) ([]netip.Addr, error) {
	result, err := types100.GetResult(r)
	if err != nil {
		return nil, fmt.Errorf("convert result: %w", err)
	}
	var ips []netip.Addr
	first4 := -1
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) {
			if on := result.Interfaces[*i]; on.Sandbox == "" || on.Name != Interface {
				continue
			}
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			continue
		}
		if ips = append(ips, addr.Unmap()); first4 < 0 && addr.Unmap().Is4() {
			first4 = len(ips) - 1
		}
	}
	if len(ips) == 0 {
		return nil, errors.New("the plugins gave no address")
	}
	if first4 > 0 {
		primary := ips[first4]
		copy(ips[1:], ips[:first4])
		ips[0] = primary
	}
	return ips, nil
}

func kind(err error) error {
	var e *types.Error
	if errors.As(err, &e) && e.Code == types.ErrTryAgainLater {
		return errdefs.ErrUnavailable
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrInternal
}
