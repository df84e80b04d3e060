package hostnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guardTable is the table of a bridge that holds a chain for each tap: family
// netdev, named like the bridge. The kernel removes a chain with its tap.
func guardTable(bridge string) *nftables.Table {
	return &nftables.Table{Name: bridge, Family: nftables.TableFamilyNetdev}
}

// guard lets into the host, from the tap link, only what an instance with that
// address has to say: IPv4 and ARP, from its own MAC and IP address. Without it
// one instance could take another's traffic, or the gateway's, by ARP, answer
// published ports in another's place, or announce itself to its neighbours as
// an IPv6 router.
func guard(bridge, link string, mac net.HardwareAddr, ip netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return natErr(err)
	}
	t := c.AddTable(guardTable(bridge))
	accept := nftables.ChainPolicyAccept
	ch := c.AddChain(&nftables.Chain{
		Name: link, Table: t, Type: nftables.ChainTypeFilter, Device: link,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	drop := expr.VerdictDrop
	rule := func(verdict expr.VerdictKind, matches ...[]expr.Any) {
		var es []expr.Any
		for _, m := range matches {
			es = append(es, m...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(es, &expr.Verdict{Kind: verdict})})
	}
	const (
		link2, network = expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader
		eq, neq        = expr.CmpOpEq, expr.CmpOpNeq
		etherSource    = 6  // in an Ethernet header
		ipSource       = 12 // in an IPv4 header
		arpSender      = 8  // hardware address, in an ARP packet for IPv4 over Ethernet (RFC 826)
		arpSenderIP    = 14
	)
	own := ip.AsSlice()
	rule(drop, bytesAt(link2, etherSource, neq, mac))
	rule(expr.VerdictAccept, protocol(eq, unix.ETH_P_IP), bytesAt(network, ipSource, eq, own))
	rule(drop, protocol(neq, unix.ETH_P_ARP))
	// What an ARP packet is about is at fixed places only in this form of it.
	rule(drop, bytesAt(network, 0, neq, []byte{0, 1, 8, 0, 6, 4})) // Ethernet, IPv4, 6 and 4 bytes
	rule(drop, bytesAt(network, arpSender, neq, mac))
	rule(expr.VerdictAccept, bytesAt(network, arpSenderIP, eq, own))
	rule(drop, bytesAt(network, arpSenderIP, neq, make([]byte, 4))) // a probe has no sender (RFC 5227)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("guard interface %s: %w", link, natErr(err))
	}
	return nil
}

// bytesAt compares bytes of a packet.
func bytesAt(base expr.PayloadBase, offset uint32, op expr.CmpOp, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(want))},
		&expr.Cmp{Op: op, Register: 1, Data: want},
	}
}

// protocol compares the Ethernet type.
func protocol(op expr.CmpOp, ethertype uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ethertype)},
	}
}
