package main

import (
	"fmt"
	"sort"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	scaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// A cluster is the objects of a kustomization.
type cluster struct {
	objects     []runtime.Object
	workloads   []*workload
	namespaces  []*core.Namespace
	accounts    []*core.ServiceAccount
	maps        []*core.ConfigMap
	services    []*core.Service
	policies    []*network.NetworkPolicy
	ingresses   []*network.Ingress
	budgets     []*disruption.PodDisruptionBudget
	autoscalers []*scaling.HorizontalPodAutoscaler
	monitors    []*monitoring.PodMonitor
	// unscaled are the Deployments whose manifest has no `replicas`, before the default of 1.
	unscaled []string
}

// A workload is a Deployment, a StatefulSet or a Job: pods of one template.
type workload struct {
	namespace   string
	name        string
	pod         core.PodTemplateSpec
	selector    *meta.LabelSelector
	replicas    *int32
	deployment  *apps.Deployment
	statefulSet *apps.StatefulSet
	job         *batch.Job
}

func (c *cluster) add(object runtime.Object) {
	c.objects = append(c.objects, object)
	switch object := object.(type) {
	case *apps.Deployment:
		spec := object.Spec
		c.workloads = append(c.workloads, &workload{
			object.Namespace, object.Name, spec.Template, spec.Selector, spec.Replicas, object, nil, nil,
		})
	case *apps.StatefulSet:
		spec := object.Spec
		c.workloads = append(c.workloads, &workload{
			object.Namespace, object.Name, spec.Template, spec.Selector, spec.Replicas, nil, object, nil,
		})
	case *batch.Job:
		// The selector of a Job is made by the server.
		c.workloads = append(c.workloads, &workload{
			object.Namespace, object.Name, object.Spec.Template, nil, nil, nil, nil, object,
		})
	case *core.Namespace:
		c.namespaces = append(c.namespaces, object)
	case *core.ServiceAccount:
		c.accounts = append(c.accounts, object)
	case *core.ConfigMap:
		c.maps = append(c.maps, object)
	case *core.Service:
		c.services = append(c.services, object)
	case *network.NetworkPolicy:
		c.policies = append(c.policies, object)
	case *network.Ingress:
		c.ingresses = append(c.ingresses, object)
	case *disruption.PodDisruptionBudget:
		c.budgets = append(c.budgets, object)
	case *scaling.HorizontalPodAutoscaler:
		c.autoscalers = append(c.autoscalers, object)
	case *monitoring.PodMonitor:
		c.monitors = append(c.monitors, object)
	}
}

func (w *workload) String() string { return w.name }

// container returns the container of the program.
func (w *workload) container() core.Container { return w.pod.Spec.Containers[0] }

// command returns the command of the program: a role, or `migrate`.
func (w *workload) command() string {
	if arguments := w.container().Args; len(arguments) > 0 {
		return arguments[0]
	}
	return "serve"
}

// runs returns true if the pods run until they are stopped.
func (w *workload) runs() bool { return w.job == nil }

// port returns the number of a port by its name.
func (w *workload) port(name string) int32 {
	for _, port := range w.container().Ports {
		if port.Name == name {
			return port.ContainerPort
		}
	}
	return 0
}

// secret stands for a value that is in a Secret.
const secret = "\x00secret"

// environment returns the variables of the program. A value that no manifest has is `secret`, or `metadata.name` and the like.
func (c *cluster) environment(w *workload, p *project) map[string]string {
	variables := map[string]string{}
	for _, source := range w.container().EnvFrom {
		if reference := source.ConfigMapRef; reference != nil {
			for name, value := range c.data(reference.Name) {
				variables[name] = value
			}
		}
		if reference := source.SecretRef; reference != nil {
			for _, name := range p.secrets()[reference.Name] {
				variables[name] = secret
			}
		}
	}
	for _, variable := range w.container().Env {
		variables[variable.Name] = variable.Value
		if from := variable.ValueFrom; from != nil {
			switch {
			case from.ConfigMapKeyRef != nil:
				variables[variable.Name] = c.data(from.ConfigMapKeyRef.Name)[from.ConfigMapKeyRef.Key]
			case from.SecretKeyRef != nil:
				variables[variable.Name] = secret
			case from.FieldRef != nil:
				variables[variable.Name] = from.FieldRef.FieldPath
			}
		}
	}
	return variables
}

func (c *cluster) data(name string) map[string]string {
	for _, one := range c.maps {
		if one.Name == name {
			return one.Data
		}
	}
	return nil
}

// service finds a Service by the host name that a pod of the namespace uses.
func (c *cluster) service(host string) *core.Service {
	for _, one := range c.services {
		if host == one.Name || host == one.Name+"."+one.Namespace {
			return one
		}
	}
	return nil
}

// selected returns the workloads of a namespace whose pods have the labels.
func (c *cluster) selected(namespace string, selector *meta.LabelSelector) []*workload {
	matches, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil
	}
	var found []*workload
	for _, one := range c.workloads {
		if one.namespace == namespace && matches.Matches(labels.Set(one.pod.Labels)) {
			found = append(found, one)
		}
	}
	return found
}

func mistake(mistakes []string, format string, values ...any) []string {
	return append(mistakes, fmt.Sprintf(format, values...))
}

func keys[V any](of map[string]V) []string {
	var names []string
	for name := range of {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func contains(list []string, text string) bool {
	for _, one := range list {
		if one == text {
			return true
		}
	}
	return false
}

// lastPart returns the text after the last separator.
func lastPart(text, separator string) string {
	return text[strings.LastIndex(text, separator)+1:]
}
