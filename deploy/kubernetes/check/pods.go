package main

import (
	"regexp"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

var (
	version = regexp.MustCompile(`(?m)^version = "([^"]+)"`)
	user    = regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`)
)

// images: every container has the same image, at the version of this repository.
func images(c *cluster, p *project) (mistakes []string) {
	released := version.FindStringSubmatch(p.files[manifest])
	if released == nil {
		return mistake(nil, "%s has no version", manifest)
	}
	for _, workload := range c.workloads {
		image, first := workload.container().Image, c.workloads[0].container().Image
		if tag := lastPart(image, ":"); tag != released[1] {
			mistakes = mistake(mistakes, "%s: the image %s is not of version %s", workload, image, released[1])
		}
		if image != first {
			mistakes = mistake(mistakes, "%s: the image %s is not %s", workload, image, first)
		}
	}
	return mistakes
}

// restrictions beyond the Pod Security Standard: the image's user, a read-only root, no token and no variables of Services.
func restrictions(c *cluster, p *project) (mistakes []string) {
	own := user.FindStringSubmatch(p.files[dockerfile])
	if own == nil {
		return mistake(nil, "%s has no user", dockerfile)
	}
	for _, workload := range c.workloads {
		pod, container := workload.pod.Spec, workload.container()
		context := pod.SecurityContext
		if context == nil || !is(context.RunAsUser, own[1]) || !is(context.RunAsGroup, own[2]) {
			mistakes = mistake(mistakes, "%s: does not run as %s:%s", workload, own[1], own[2])
		}
		if own := container.SecurityContext; own == nil || own.ReadOnlyRootFilesystem == nil || !*own.ReadOnlyRootFilesystem {
			mistakes = mistake(mistakes, "%s: the root file system is writable", workload)
		}
		if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			mistakes = mistake(mistakes, "%s: has a token of the Kubernetes API", workload)
		}
		if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
			mistakes = mistake(mistakes, "%s: has variables of all Services", workload)
		}
	}
	for _, account := range c.accounts {
		if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
			mistakes = mistake(mistakes, "ServiceAccount %s: mounts its token", account.Name)
		}
	}
	return mistakes
}

// is returns true if the id is the expected one.
func is(id *int64, expected string) bool {
	return id != nil && strconv.FormatInt(*id, 10) == expected
}

// probes: a role is started and alive at /healthz and ready at /readyz, on its operations port.
func probes(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		if !workload.runs() {
			continue
		}
		container := workload.container()
		for _, expected := range []struct {
			name  string
			probe *core.Probe
			path  string
		}{
			{"startup", container.StartupProbe, "/healthz"},
			{"liveness", container.LivenessProbe, "/healthz"},
			{"readiness", container.ReadinessProbe, "/readyz"},
		} {
			switch probe := expected.probe; {
			case probe == nil || probe.HTTPGet == nil:
				mistakes = mistake(mistakes, "%s: no %s probe", workload, expected.name)
			case probe.HTTPGet.Path != expected.path:
				mistakes = mistake(mistakes, "%s: the %s probe requests %s", workload, expected.name, probe.HTTPGet.Path)
			case probe.HTTPGet.Port.StrVal != "operations":
				mistakes = mistake(mistakes, "%s: the %s probe uses the port %s", workload, expected.name, probe.HTTPGet.Port.String())
			}
		}
	}
	return mistakes
}

// resources: CPU and memory are requested and limited, and no memory limit is below that of docker-compose.yml.
func resources(c *cluster, p *project) (mistakes []string) {
	services, err := p.composeServices()
	if err != nil {
		return []string{err.Error()}
	}
	for _, workload := range c.workloads {
		limits := workload.container().Resources
		for _, name := range []core.ResourceName{core.ResourceCPU, core.ResourceMemory} {
			if limits.Requests.Name(name, resource.DecimalSI).IsZero() {
				mistakes = mistake(mistakes, "%s: requests no %s", workload, name)
			}
			if limits.Limits.Name(name, resource.DecimalSI).IsZero() {
				mistakes = mistake(mistakes, "%s: has no limit of %s", workload, name)
			}
		}
		// The rule `roles` reports a command that docker-compose.yml does not have.
		least, err := resource.ParseQuantity(strings.ToUpper(services[workload.command()].MemLimit) + "i")
		if err == nil && limits.Limits.Memory().Cmp(least) < 0 {
			mistakes = mistake(mistakes, "%s: memory %s, and %s in %s", workload, limits.Limits.Memory(), &least, compose)
		}
	}
	return mistakes
}
