package hostnet

import (
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Limit bounds what an instance may send and receive, in bytes a second; 0 does
// not. The kernel enforces it at the host's end of the instance's link, for VMs
// and containers alike.
type Limit struct {
	Rx, Tx uint64
}

const (
	minRate = 1 << 10        // below it one frame takes seconds
	maxRate = math.MaxUint32 // that of the kernel's interface
	// maxSegment is the largest packet that passes at once: a limit whose bucket is
	// smaller would let none of them through.
	maxSegment = 64 << 10
)

func (l Limit) check() error {
	for name, rate := range map[string]uint64{"rx": l.Rx, "tx": l.Tx} {
		if rate != 0 && (rate < minRate || rate > maxRate) {
			return fmt.Errorf("%w: %s=%d: a limit is from %d bytes to 4 GiB a second", ErrOptions, name, rate, minRate)
		}
	}
	return nil
}

// apply limits link, the host's end. What the instance receives leaves the host
// here, and waits in a queue for its turn (tc-tbf(8)); what it sends comes in, and
// there is no queue for that: it is dropped above the limit (police), which TCP
// takes as the sign to slow down.
func (l Limit) apply(h *netlink.Handle, link netlink.Link) error {
	index := link.Attrs().Index
	if l.Rx != 0 {
		burst := bucket(l.Rx, 50)
		err := h.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       l.Rx,
			Buffer:     netlink.Xmittime(l.Rx, burst),
			Limit:      burst + bucket(l.Rx, 10), // 0.1 s of waiting
		})
		if err != nil {
			return wrap("limit what goes to "+link.Attrs().Name+" (kernel option NET_SCH_TBF)", err)
		}
	}
	if l.Tx != 0 {
		qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
		if err := h.QdiscReplace(qdisc); err != nil {
			return wrap("limit what comes from "+link.Attrs().Name+" (kernel option NET_SCH_INGRESS)", err)
		}
		police := netlink.NewPoliceAction()
		police.Rate, police.Burst, police.Mtu, police.ExceedAction = uint32(l.Tx), bucket(l.Tx, 10), maxSegment, netlink.TC_POLICE_SHOT
		err := h.FilterReplace(&netlink.MatchAll{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: qdisc.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
			Actions:     []netlink.Action{police},
		})
		if err != nil {
			return wrap("limit what comes from "+link.Attrs().Name+" (kernel options NET_CLS_MATCHALL, NET_ACT_POLICE)", err)
		}
	}
	return nil
}

// bucket is what may pass at once: a share of a second of rate, at least two of
// the largest packets.
func bucket(rate, perSecond uint64) uint32 { return uint32(max(rate/perSecond, 2*maxSegment)) }
