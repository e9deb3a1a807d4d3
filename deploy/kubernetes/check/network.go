package main

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Namespaces outside the kustomization.
const (
	monitoringSpace = "monitoring"
	ingressSpace    = "haproxy-controller"
	enginesSpace    = "engines"
)

// An end of a connection: a pod of a workload, a pod of another namespace, or an address outside the cluster.
type end struct {
	workload  *workload
	namespace string
	labels    map[string]string
	address   netip.Addr
}

func endOf(workload *workload) end {
	return end{workload: workload, namespace: workload.namespace, labels: workload.pod.Labels}
}

// A port by which an end is reached.
type port struct {
	number   int32
	protocol core.Protocol
}

func tcp(number int32) port { return port{number, core.ProtocolTCP} }

// allows returns true if the policies of both ends allow the connection.
func (c *cluster) allows(from, to end, port port) bool {
	return c.admits(from, to, to, port, network.PolicyTypeEgress) && c.admits(to, from, to, port, network.PolicyTypeIngress)
}

// admits returns true if the policies of one end admit the other one. An end without a policy of that direction admits all. A name
// of a port is that of the server.
func (c *cluster) admits(own, other, server end, port port, direction network.PolicyType) bool {
	if own.workload == nil {
		return true
	}
	isolated := false
	for _, policy := range c.policies {
		if policy.Namespace != own.namespace || !matches(&policy.Spec.PodSelector, own.labels) || !has(policy, direction) {
			continue
		}
		isolated = true
		if direction == network.PolicyTypeEgress {
			for _, rule := range policy.Spec.Egress {
				if anyPeer(rule.To, policy, other) && anyPort(rule.Ports, server, port) {
					return true
				}
			}
			continue
		}
		for _, rule := range policy.Spec.Ingress {
			if anyPeer(rule.From, policy, other) && anyPort(rule.Ports, server, port) {
				return true
			}
		}
	}
	return !isolated
}

func has(policy *network.NetworkPolicy, direction network.PolicyType) bool {
	for _, one := range policy.Spec.PolicyTypes {
		if one == direction {
			return true
		}
	}
	return false
}

func anyPeer(peers []network.NetworkPolicyPeer, policy *network.NetworkPolicy, other end) bool {
	for _, peer := range peers {
		switch {
		case peer.IPBlock != nil:
			block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
			if err == nil && other.address.IsValid() && block.Contains(other.address) {
				return true
			}
		case other.address.IsValid():
		case peer.NamespaceSelector != nil:
			space := map[string]string{core.LabelMetadataName: other.namespace}
			if matches(peer.NamespaceSelector, space) && (peer.PodSelector == nil || matches(peer.PodSelector, other.labels)) {
				return true
			}
		case other.namespace == policy.Namespace && matches(peer.PodSelector, other.labels):
			return true
		}
	}
	return len(peers) == 0
}

func anyPort(ports []network.NetworkPolicyPort, server end, asked port) bool {
	for _, one := range ports {
		if *one.Protocol != asked.protocol {
			continue
		}
		if one.Port == nil {
			return true
		}
		number := one.Port.IntVal
		if one.Port.Type == intstr.String && server.workload != nil {
			number = server.workload.port(one.Port.StrVal)
		}
		if number == asked.number {
			return true
		}
	}
	return len(ports) == 0
}

func matches(selector *meta.LabelSelector, own map[string]string) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(labels.Set(own))
}

func peers(policy *network.NetworkPolicy) (all []network.NetworkPolicyPeer) {
	for _, rule := range policy.Spec.Ingress {
		all = append(all, rule.From...)
	}
	for _, rule := range policy.Spec.Egress {
		all = append(all, rule.To...)
	}
	return all
}

// A target is an address of a setting.
type target struct {
	host string
	port int32
}

// targets parses the addresses of a URL with one host or several.
func targets(text string) (found []target, valid bool) {
	scheme, rest, _ := strings.Cut(text, "://")
	for _, address := range strings.Split(rest, ",") {
		parsed, err := url.Parse(scheme + "://" + strings.TrimPrefix(address, scheme+"://"))
		if err != nil {
			return nil, false
		}
		number, err := strconv.ParseInt(parsed.Port(), 10, 32)
		if err != nil || parsed.Hostname() == "" {
			return nil, false
		}
		found = append(found, target{parsed.Hostname(), int32(number)})
	}
	return found, true
}
