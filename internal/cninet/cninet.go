package cninet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// maxRequest bounds what the owner tells.
const maxRequest = 1 << 20

// Serve reads a hostnet.CNIRequest, does what verb says (add, check, del), and
// writes a hostnet.CNIAnswer. The error is that it could not.
func Serve(ctx context.Context, verb string, in io.Reader, out io.Writer) error {
	var r hostnet.CNIRequest
	d := json.NewDecoder(io.LimitReader(in, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return fmt.Errorf("CNI request: %w", err)
	}
	a, err := do(ctx, verb, &r)
	if err != nil {
		a.Error = fmt.Sprintf("CNI network %s: %v", r.Network, err)
	}
	return json.NewEncoder(out).Encode(a)
}

func do(ctx context.Context, verb string, r *hostnet.CNIRequest) (a hostnet.CNIAnswer, err error) {
	cni := libcni.NewCNIConfigWithCacheDir(r.Plugins, r.Cache, nil)
	if verb == "del" {
		return a, del(ctx, cni, r)
	}
	list, err := load(r)
	if err != nil {
		return a, err
	}
	rt, err := runtimeConf(r, list)
	if err != nil {
		return a, err
	}
	switch verb {
	case "add":
		return add(ctx, cni, list, rt, r)
	case "check":
		return a, cni.CheckNetworkList(ctx, list, rt)
	}
	return a, fmt.Errorf("verb %q: there are add, check and del", verb)
}

// load finds the network's configuration, a list or a single plugin's.
func load(r *hostnet.CNIRequest) (*libcni.NetworkConfigList, error) {
	list, err := libcni.LoadNetworkConf(r.ConfDir, r.Network)
	if err == nil {
		return list, nil
	}
	files, ferr := libcni.ConfFiles(r.ConfDir, []string{".conf", ".json", ".conflist"})
	if ferr != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no configurations in %s; name another directory with --cni-conf", r.ConfDir)
	}
	return nil, fmt.Errorf("%w (in %s)", err, r.ConfDir)
}

// del takes back what add did, by the configuration that it saw. Where it did
// nothing, or nobody knows what because it was killed, the network's present
// configuration says what to do, if it can.
func del(ctx context.Context, cni *libcni.CNIConfig, r *hostnet.CNIRequest) error {
	list, err := cached(cni, r)
	added := list != nil
	if err == nil && !added {
		if list, err = load(r); err != nil {
			return nil // a network that is not, and was not joined
		}
	}
	if err != nil {
		return err
	}
	rt, err := runtimeConf(r, list)
	if err != nil && !added {
		return nil // refused, so that nothing was done
	}
	if err != nil {
		return err
	}
	if err = cni.DelNetworkList(ctx, list, rt); err != nil && !added && missing(err) {
		return nil // a plugin that is not there has made nothing
	}
	return err
}

// cached is the configuration that ADD has seen; nil without error: none did.
func cached(cni *libcni.CNIConfig, r *hostnet.CNIRequest) (*libcni.NetworkConfigList, error) {
	added, err := cni.GetCachedAttachments(r.ID)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, a := range added {
		if a.Network == r.Network {
			return libcni.NetworkConfFromBytes(a.Config)
		}
	}
	return nil, nil
}

func runtimeConf(r *hostnet.CNIRequest, list *libcni.NetworkConfigList) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{ContainerID: r.ID, NetNS: r.NetNS, IfName: hostnet.CNIInterface, CapabilityArgs: map[string]any{}}
	rt.Args = append(rt.Args, [2]string{"IgnoreUnknown", "1"})
	if r.IP.IsValid() {
		rt.Args = append(rt.Args, [2]string{"IP", r.IP.String()})
	}
	if r.MAC != "" {
		rt.Args = append(rt.Args, [2]string{"MAC", r.MAC})
	}
	if len(r.Publish) == 0 {
		return rt, nil
	}
	const capability = "portMappings"
	if !slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] }) {
		return nil, fmt.Errorf("it has no plugin with the capability %s (portmap has), so no ports can be published", capability)
	}
	var maps []map[string]any
	for _, p := range r.Publish {
		m := map[string]any{"hostPort": p.HostPort, "containerPort": p.Port, "protocol": p.Protocol}
		if p.HostIP.IsValid() {
			m["hostIP"] = p.HostIP.String()
		}
		maps = append(maps, m)
	}
	rt.CapabilityArgs[capability] = maps
	return rt, nil
}

// add attaches, and takes everything back when what comes of it is of no use.
func add(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf, r *hostnet.CNIRequest) (hostnet.CNIAnswer, error) {
	var a hostnet.CNIAnswer
	result, err := cni.AddNetworkList(ctx, list, rt)
	if err == nil {
		a, err = answer(result, r)
	}
	if err != nil {
		// CNI 1.1: after an error of ADD, DEL is for the runtime to call.
		if derr := cni.DelNetworkList(context.WithoutCancel(ctx), list, rt); derr != nil {
			err = fmt.Errorf("%w (and taking it back: %w)", err, derr)
		}
		return hostnet.CNIAnswer{}, explain(err)
	}
	return a, nil
}

func answer(result types.Result, r *hostnet.CNIRequest) (a hostnet.CNIAnswer, err error) {
	now, err := types100.NewResultFromResult(result)
	if err != nil {
		return a, err
	}
	for _, ip := range now.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP.To4())
		if !ok {
			continue // IPv6: instances have IPv4
		}
		bits, _ := ip.Address.Mask.Size()
		a.IP = netip.PrefixFrom(addr, bits)
		if gw, ok := netip.AddrFromSlice(ip.Gateway.To4()); ok {
			a.Gateway = gw
		}
		break
	}
	for _, i := range now.Interfaces {
		if i.Name == hostnet.CNIInterface && i.Sandbox != "" {
			a.MAC = i.Mac
		}
	}
	for _, s := range now.DNS.Nameservers {
		if addr, err := netip.ParseAddr(s); err == nil {
			a.DNS = append(a.DNS, addr)
		}
	}
	switch _, err := net.ParseMAC(a.MAC); {
	case !a.IP.IsValid():
		return a, errors.New("its plugins gave no IPv4 address")
	case err != nil:
		return a, fmt.Errorf("its plugins made no interface %s", hostnet.CNIInterface)
	case r.IP.IsValid() && a.IP.Addr() != r.IP:
		return a, fmt.Errorf("its plugins gave %s in place of the address asked for, %s", a.IP.Addr(), r.IP)
	}
	return a, nil
}

// missing says whether a plugin was not found; libcni has no error of its own for
// that.
func missing(err error) bool { return strings.Contains(err.Error(), "failed to find plugin") }

// explain says what to do about plugins that are not there.
func explain(err error) error {
	if missing(err) {
		return fmt.Errorf("%w; install it there (Debian's package containernetworking-plugins), or name its directory with --cni-plugins", err)
	}
	return err
}
