package etcfiles

import "strings"

// Names is what a workload knows by name.
type Names struct {
	Hostname  string   // empty: none is written
	Addresses []string // of the workload, with or without a prefix length
	Hosts     []Host   // beside the usual ones
	// DNS servers, search domains and options; with none of them the image's
	// resolv.conf stays.
	DNS, Search, Options []string
}

// Host is a line of /etc/hosts.
type Host struct {
	Address string
	Names   []string
}

// File is a file of /etc.
type File struct{ Name, Content string }

// Files are the files to write into /etc.
func (n Names) Files() []File {
	var out []File
	if n.Hostname != "" {
		out = append(out, File{"hostname", n.Hostname + "\n"})
	}
	out = append(out, File{"hosts", n.hosts()})
	if len(n.DNS)+len(n.Search)+len(n.Options) > 0 {
		out = append(out, File{"resolv.conf", n.resolv()})
	}
	return out
}

func (n Names) hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	if n.Hostname != "" {
		short, _, _ := strings.Cut(n.Hostname, ".")
		names := n.Hostname
		if short != n.Hostname {
			names += " " + short
		}
		own := n.Addresses
		if len(own) == 0 {
			own = []string{"127.0.1.1"}
		}
		for _, a := range own {
			ip, _, _ := strings.Cut(a, "/")
			b.WriteString(ip + "\t" + names + "\n")
		}
	}
	for _, h := range n.Hosts {
		b.WriteString(h.Address + "\t" + strings.Join(h.Names, " ") + "\n")
	}
	return b.String()
}

func (n Names) resolv() string {
	var b strings.Builder
	if len(n.Search) > 0 {
		b.WriteString("search " + strings.Join(n.Search, " ") + "\n")
	}
	for _, d := range n.DNS {
		b.WriteString("nameserver " + d + "\n")
	}
	if len(n.Options) > 0 {
		b.WriteString("options " + strings.Join(n.Options, " ") + "\n")
	}
	return b.String()
}
