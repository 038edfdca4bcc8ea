package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// atBoot are the modules that process 1 loads, in this order, each after those that it
// depends on. What the kernel has built in is skipped.
func atBoot() []string {
	return []string{
		// The checksums of file systems: the quicker one first, where the CPU has it.
		"crc32c_intel", "crc32c_generic",
		"virtio_pci", "virtio_console", "virtio_blk", "virtio_net",
		"erofs", "overlay", "ext4", "9pnet_virtio", "9p",
	}
}

// onDemand are the modules that the kernel asks for when a pod first needs them.
func onDemand() []string {
	return []string{
		"nd_pmem", "virtio_pmem", "virtio_mem", "virtio_balloon", "virtio_rng",
		"loop", "fuse", "autofs4", "binfmt_misc", "quota_v2",
		"tun", "veth", "dummy", "bridge", "br_netfilter", "macvlan", "ipvlan", "vxlan", "8021q", "ifb", "wireguard", "ipip", "vrf",
		"unix_diag", "inet_diag", "tcp_diag", "udp_diag", "netlink_diag", "tcp_bbr",
		"sch_fq", "sch_fq_codel", "sch_htb", "sch_tbf", "sch_netem", "sch_prio", "sch_ingress", "cls_u32", "cls_bpf", "cls_matchall", "cls_flower", "cls_fw", "act_mirred", "act_bpf", "act_police", "act_gact",
		"nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nft_redir", "nft_nat", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6", "nft_compat", "nft_log", "nft_limit", "nft_hash", "nft_numgen", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_tproxy", "nft_socket", "nft_quota", "nft_connlimit",
		"nf_conntrack_netlink", "nfnetlink_log", "nfnetlink_queue", "nf_log_syslog",
		"ip_tables", "ip6_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw",
		"xt_conntrack", "xt_comment", "xt_multiport", "xt_addrtype", "xt_owner", "xt_mark", "xt_connmark", "xt_statistic", "xt_physdev", "xt_set", "xt_limit", "xt_hashlimit", "xt_recent", "xt_string", "xt_length", "xt_mac", "xt_iprange", "xt_tcpmss", "xt_u32", "xt_cgroup", "xt_bpf", "xt_pkttype",
		"xt_MASQUERADE", "xt_REDIRECT", "xt_nat", "xt_tcpudp", "xt_LOG", "xt_NFLOG", "xt_TPROXY", "xt_TCPMSS", "xt_CT", "xt_CLASSIFY", "xt_DSCP", "xt_socket", "xt_state",
		"ipt_REJECT", "ip6t_REJECT", "ip_set", "ip_set_hash_ip", "ip_set_hash_net", "ip_set_hash_ipport", "ip_set_hash_ipportnet", "ip_set_bitmap_port",
		"algif_hash", "algif_skcipher",
	}
}

// module is one kernel module.
type module struct {
	name    string
	data    []byte
	depends []string // loaded before
	aliases []string // what else the kernel asks for it by, with * and ?
}

// signature ends a signed module: magic, after a 12 byte header whose last four bytes
// are the length of the signature before that (scripts/sign-file.c).
const signature = "~Module signature appended~\n"

// parseModule reads what a module depends on, and takes its signature off: the initial RAM
// file system comes from the same hand as the kernel, and checking each costs the guest's
// start more than loading it.
func parseModule(name string, data []byte) (module, error) {
	if body, ok := bytes.CutSuffix(data, []byte(signature)); ok && len(body) > 12 {
		n := int(binary.BigEndian.Uint32(body[len(body)-4:])) + 12
		if n > len(body) {
			return module{}, fmt.Errorf("module %s: signature is longer than the file", name)
		}
		data = body[:len(body)-n]
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return module{}, fmt.Errorf("module %s: %w", name, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, fmt.Errorf("module %s has no .modinfo", name)
	}
	info, err := section.Data()
	if err != nil {
		return module{}, fmt.Errorf("module %s: %w", name, err)
	}
	m := module{name: name, data: data}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(line), "=")
		switch key {
		case "depends":
			m.depends = append(m.depends, split(value, ",")...)
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep": // "pre: a b post: c"
			pre, _, _ := strings.Cut(value, "post:")
			if rest, ok := strings.CutPrefix(strings.TrimSpace(pre), "pre:"); ok {
				m.depends = append(m.depends, strings.Fields(rest)...)
			}
		}
	}
	return m, nil
}

func split(s, sep string) []string {
	return slices.DeleteFunc(strings.Split(s, sep), func(p string) bool { return p == "" })
}

// moduleName is a module's name as the kernel has it: files and dependencies may have
// dashes.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order lists modules so that each comes after what it depends on. load gives a module by
// its name, or ok false if there is none, which is right for what is built in.
func order(names []string, load func(name string) (m module, ok bool, err error)) ([]module, error) {
	var out []module
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		m, ok, err := load(name)
		if err != nil || !ok {
			return err
		}
		for _, d := range m.depends {
			if err := add(d); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}
