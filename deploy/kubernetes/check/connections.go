package main

import (
	"net/netip"
	"strings"

	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ports: the program listens on the ports of its container, on all addresses, and Services lead to them.
func ports(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		variables := c.environment(workload, p)
		for variable, names := range map[string][]string{"LISTEN": {"grpc", "http"}, "OPS_LISTEN": {"operations"}} {
			listen, set := variables[variable]
			if !set && !workload.runs() {
				continue
			}
			address, err := netip.ParseAddrPort(listen)
			if err != nil || !address.Addr().IsUnspecified() {
				mistakes = mistake(mistakes, "%s: %s=%s is not reached by other pods", workload, variable, listen)
				continue
			}
			found := false
			for _, name := range names {
				found = found || workload.port(name) == int32(address.Port())
			}
			if !found {
				mistakes = mistake(mistakes, "%s: %s=%s is no port %s of the container", workload, variable, listen, strings.Join(names, " or "))
			}
		}
	}
	for _, service := range c.services {
		for _, workload := range c.selected(service.Namespace, &meta.LabelSelector{MatchLabels: service.Spec.Selector}) {
			for _, port := range service.Spec.Ports {
				number := targetPort(port, workload)
				if number == 0 {
					mistakes = mistake(mistakes, "Service %s: %s has no port %s", service.Name, workload, port.TargetPort.String())
				}
				// A headless Service is only a name: no port is translated.
				if service.Spec.ClusterIP == core.ClusterIPNone && number != port.Port {
					mistakes = mistake(mistakes, "Service %s: is headless, and the port %d is %d in the pods", service.Name, port.Port, number)
				}
			}
		}
	}
	return mistakes
}

// connections: a role may call those that its settings name, at their ports, and no other.
func connections(c *cluster, p *project) (mistakes []string) {
	type pair struct {
		from, to *workload
		number   int32
	}
	needed := map[pair]bool{}
	for _, workload := range c.workloads {
		variables := c.environment(workload, p)
		for _, variable := range []string{"AUTH_URL", "DIALOG_URL", "COUNTER_URL"} {
			value, set := variables[variable]
			if !set {
				continue
			}
			found, valid := targets(value)
			if !valid {
				mistakes = mistake(mistakes, "%s: %s=%s is no URL", workload, variable, value)
			}
			for _, target := range found {
				service := c.service(target.host)
				if service == nil || service.Spec.ClusterIP != core.ClusterIPNone {
					mistakes = mistake(mistakes, "%s: %s: no headless Service `%s`", workload, variable, target.host)
					continue
				}
				role := strings.ToLower(strings.TrimSuffix(variable, "_URL"))
				for _, other := range c.selected(service.Namespace, &meta.LabelSelector{MatchLabels: service.Spec.Selector}) {
					needed[pair{workload, other, target.port}] = true
					if other.command() != role || other.port("grpc") != target.port {
						mistakes = mistake(mistakes, "%s: %s=%s leads to %s at %d", workload, variable, value, other, target.port)
					}
				}
			}
		}
	}
	for _, from := range c.workloads {
		for _, to := range c.workloads {
			for _, own := range to.container().Ports {
				caller, server, port := endOf(from), endOf(to), tcp(own.ContainerPort)
				asked := needed[pair{from, to, own.ContainerPort}]
				if c.admits(caller, server, server, port, network.PolicyTypeEgress) != asked {
					mistakes = mistake(mistakes, "the policies of %s %s connections to %s at %d, which %s",
						from, effect(!asked), to, own.ContainerPort, use(asked))
				}
				if c.admits(server, caller, server, port, network.PolicyTypeIngress) != asked {
					mistakes = mistake(mistakes, "the policies of %s %s connections from %s at %d, which %s",
						to, effect(!asked), from, own.ContainerPort, use(asked))
				}
			}
		}
	}
	return mistakes
}

func effect(allowed bool) string {
	if allowed {
		return "allow"
	}
	return "refuse"
}

func use(needed bool) string {
	if needed {
		return "its settings need"
	}
	return "no setting needs"
}

// engines: PostgreSQL, Kafka and Redis are reached by their clients, in the cluster and on a private network, and by no other.
func engines(c *cluster, p *project) (mistakes []string) {
	names := map[string][]string{
		"PostgreSQL": {"DATABASE_URL", "AUTH_DATABASE_URL"},
		"Kafka":      {"KAFKA_URL"},
		"Redis":      {"REDIS_URL"},
	}
	usual := map[string]int32{"PostgreSQL": 5432, "Kafka": 9092, "Redis": 6379}
	for _, workload := range c.workloads {
		variables := c.environment(workload, p)
		for _, engine := range keys(names) {
			asked := false
			places := []target{{"engine." + enginesSpace, usual[engine]}}
			for _, variable := range names[engine] {
				value, set := variables[variable]
				asked = asked || set
				if found, valid := targets(value); set && value != secret {
					if !valid {
						mistakes = mistake(mistakes, "%s: %s=%s is no URL", workload, variable, value)
					}
					places = found
				}
			}
			for _, place := range places {
				ends := []end{{address: netip.MustParseAddr("10.1.2.3")}, {namespace: lastPart(place.host, ".")}}
				for _, end := range ends {
					allowed := c.allows(endOf(workload), end, tcp(place.port))
					if allowed && !asked {
						mistakes = mistake(mistakes, "%s may connect to %s, which no setting needs", workload, engine)
					} else if asked && !allowed {
						mistakes = mistake(mistakes, "%s may not connect to %s at %s:%d", workload, engine, place.host, place.port)
					}
				}
			}
		}
	}
	return mistakes
}

// outside: connections between the pods and other namespaces or the internet. DNS is open to all.
func outside(c *cluster, p *project) (mistakes []string) {
	refused := false
	for _, policy := range c.policies {
		all := len(policy.Spec.PodSelector.MatchLabels)+len(policy.Spec.PodSelector.MatchExpressions) == 0
		refused = refused || all && len(policy.Spec.PolicyTypes) == 2 && len(peers(policy)) == 0
	}
	if !refused {
		mistakes = mistake(mistakes, "no NetworkPolicy refuses all that no other one admits")
	}
	dns := end{namespace: "kube-system", labels: map[string]string{"k8s-app": "kube-dns"}}
	public := end{address: netip.MustParseAddr("203.0.113.7")}
	for _, workload := range c.workloads {
		for _, protocol := range []core.Protocol{core.ProtocolUDP, core.ProtocolTCP} {
			if !c.allows(endOf(workload), dns, port{53, protocol}) {
				mistakes = mistake(mistakes, "%s may not ask the DNS by %s", workload, protocol)
			}
		}
		for _, number := range []int32{80, 443, 5432, 6379, 9092} {
			if c.allows(endOf(workload), public, tcp(number)) {
				mistakes = mistake(mistakes, "%s may connect to the internet at %d", workload, number)
			}
		}
		for _, own := range workload.container().Ports {
			callers := map[string]end{"the internet": public}
			for _, space := range []string{monitoringSpace, ingressSpace, enginesSpace, "default", "kube-system"} {
				callers[space] = end{namespace: space}
			}
			for _, caller := range keys(callers) {
				asked := own.Name == "operations" && caller == monitoringSpace || own.Name == "http" && caller == ingressSpace
				allowed := c.allows(callers[caller], endOf(workload), tcp(own.ContainerPort))
				if allowed != asked {
					mistakes = mistake(mistakes, "%s: connections from %s to %s: allowed %t, needed %t", workload, caller, own.Name, allowed, asked)
				}
			}
		}
	}
	return mistakes
}
