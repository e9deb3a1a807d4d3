package main

import (
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// references: what a pod names exists, and an Ingress leads to a port of a Service.
func references(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		if !c.hasAccount(workload.pod.Spec.ServiceAccountName) {
			mistakes = mistake(mistakes, "%s: no ServiceAccount `%s`", workload, workload.pod.Spec.ServiceAccountName)
		}
		for _, source := range workload.container().EnvFrom {
			if source.ConfigMapRef != nil && c.data(source.ConfigMapRef.Name) == nil {
				mistakes = mistake(mistakes, "%s: no ConfigMap `%s`", workload, source.ConfigMapRef.Name)
			}
			if source.SecretRef != nil && len(p.secrets()[source.SecretRef.Name]) == 0 {
				mistakes = mistake(mistakes, "%s: %s does not create the Secret `%s`", workload, operations, source.SecretRef.Name)
			}
		}
		for _, variable := range workload.container().Env {
			mistakes = append(mistakes, c.missing(workload, variable, p)...)
		}
	}
	for _, ingress := range c.ingresses {
		for _, tls := range ingress.Spec.TLS {
			if _, created := p.secrets()[tls.SecretName]; !created {
				mistakes = mistake(mistakes, "Ingress %s: %s does not create the Secret `%s`", ingress.Name, operations, tls.SecretName)
			}
		}
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			for _, path := range rule.HTTP.Paths {
				backend := path.Backend.Service
				if backend == nil {
					continue
				}
				if service := c.service(backend.Name); service == nil || servicePort(service, backend.Port.Name) == nil {
					mistakes = mistake(mistakes, "Ingress %s: no port `%s` of a Service `%s`", ingress.Name, backend.Port.Name, backend.Name)
				}
			}
		}
	}
	return mistakes
}

// missing returns the mistakes of a variable whose value is elsewhere.
func (c *cluster) missing(workload *workload, variable core.EnvVar, p *project) (mistakes []string) {
	from := variable.ValueFrom
	if from == nil {
		return nil
	}
	if reference := from.ConfigMapKeyRef; reference != nil && c.data(reference.Name)[reference.Key] == "" {
		mistakes = mistake(mistakes, "%s: no `%s` in a ConfigMap `%s`", workload, reference.Key, reference.Name)
	}
	if reference := from.SecretKeyRef; reference != nil && !contains(p.secrets()[reference.Name], reference.Key) {
		mistakes = mistake(mistakes, "%s: %s creates no Secret `%s` with `%s`", workload, operations, reference.Name, reference.Key)
	}
	return mistakes
}

func (c *cluster) hasAccount(name string) bool {
	for _, account := range c.accounts {
		if account.Name == name {
			return true
		}
	}
	return false
}

func servicePort(service *core.Service, name string) *core.ServicePort {
	for _, port := range service.Spec.Ports {
		if port.Name == name {
			return &port
		}
	}
	return nil
}

// selectors: each selects a workload, and one of a single role selects no other.
func selectors(c *cluster, p *project) (mistakes []string) {
	selects := func(owner, namespace string, selector *meta.LabelSelector) {
		if selector != nil && len(c.selected(namespace, selector)) == 0 {
			mistakes = mistake(mistakes, "%s: selects no pod", owner)
		}
	}
	for _, workload := range c.workloads {
		for _, other := range c.selected(workload.namespace, workload.selector) {
			if workload.selector != nil && other != workload {
				mistakes = mistake(mistakes, "%s: selects the pods of %s", workload, other)
			}
		}
		for _, constraint := range workload.pod.Spec.TopologySpreadConstraints {
			selects(workload.name+", topologySpreadConstraints", workload.namespace, constraint.LabelSelector)
		}
	}
	for _, service := range c.services {
		selects("Service "+service.Name, service.Namespace, &meta.LabelSelector{MatchLabels: service.Spec.Selector})
	}
	for _, budget := range c.budgets {
		selects("PodDisruptionBudget "+budget.Name, budget.Namespace, budget.Spec.Selector)
	}
	for _, monitor := range c.monitors {
		selects("PodMonitor "+monitor.Name, monitor.Namespace, &monitor.Spec.Selector)
		for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
			for _, workload := range c.selected(monitor.Namespace, &monitor.Spec.Selector) {
				if workload.runs() && (endpoint.Port == nil || workload.port(*endpoint.Port) == 0) {
					mistakes = mistake(mistakes, "PodMonitor %s: %s has no such port", monitor.Name, workload)
				}
			}
		}
	}
	for _, policy := range c.policies {
		selects("NetworkPolicy "+policy.Name, policy.Namespace, &policy.Spec.PodSelector)
		for _, peer := range peers(policy) {
			if peer.NamespaceSelector == nil && peer.IPBlock == nil {
				selects("NetworkPolicy "+policy.Name+", peer", policy.Namespace, peer.PodSelector)
			}
		}
	}
	return mistakes
}

// namespaces: all objects are in one namespace, and each other one that a policy names is in the documentation.
func namespaces(c *cluster, p *project) (mistakes []string) {
	for _, object := range c.objects {
		own := object.(meta.Object)
		if _, is := object.(*core.Namespace); !is && own.GetNamespace() != c.namespaces[0].Name {
			mistakes = mistake(mistakes, "%s: in the namespace %q", own.GetName(), own.GetNamespace())
		}
	}
	for _, policy := range c.policies {
		for _, peer := range peers(policy) {
			if peer.NamespaceSelector == nil {
				continue
			}
			name := peer.NamespaceSelector.MatchLabels[core.LabelMetadataName]
			if name == "" || !contains([]string{"kube-system", monitoringSpace, ingressSpace, enginesSpace}, name) {
				mistakes = mistake(mistakes, "NetworkPolicy %s: the namespace %q is not known", policy.Name, name)
			}
		}
	}
	return mistakes
}

// targetPort returns the number of the port to which a Service leads.
func targetPort(port core.ServicePort, workload *workload) int32 {
	if port.TargetPort.Type == intstr.String {
		return workload.port(port.TargetPort.StrVal)
	}
	return port.TargetPort.IntVal
}
