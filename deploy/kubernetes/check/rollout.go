package main

import (
	"regexp"
	"time"

	"sigs.k8s.io/yaml"
)

// partitions is the number of partitions of a topic, and so of useful instances of a consumer.
const partitions = 12

// exit is the time within which a role exits after DRAIN_WINDOW.
const exit = 10 * time.Second

// shutdown: a pod serves on before it gets SIGTERM, and its grace period exceeds that time, DRAIN_WINDOW and 10 s.
func shutdown(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		if !workload.runs() {
			continue
		}
		window, set := c.environment(workload, p)["DRAIN_WINDOW"]
		if !set {
			window = p.settingsOf(workload.command())["DRAIN_WINDOW"].fallback
		}
		drain, valid := parseDuration(window)
		if !valid {
			mistakes = mistake(mistakes, "%s: DRAIN_WINDOW is %q", workload, window)
			continue
		}
		lifecycle := workload.container().Lifecycle
		if lifecycle == nil || lifecycle.PreStop == nil || lifecycle.PreStop.Sleep == nil || lifecycle.PreStop.Sleep.Seconds < 5 {
			mistakes = mistake(mistakes, "%s: no preStop of 5 s or more; the image has no shell, so it must be `sleep`", workload)
			continue
		}
		needed := time.Duration(lifecycle.PreStop.Sleep.Seconds)*time.Second + drain + exit
		if grace := time.Duration(*workload.pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace <= needed {
			mistakes = mistake(mistakes, "%s: is killed after %s, and stops within %s", workload, grace, needed)
		}
	}
	return mistakes
}

// rollout: every role has two instances or more, and an update takes none away before another one is ready.
func rollout(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		if !workload.runs() {
			continue
		}
		least, most := c.instances(workload)
		if least < 2 {
			mistakes = mistake(mistakes, "%s: one instance", workload)
		}
		if workload.command() != "gateway" && most > partitions {
			mistakes = mistake(mistakes, "%s: %d instances, and a topic has %d partitions", workload, most, partitions)
		}
		if deployment := workload.deployment; deployment != nil {
			rolling := deployment.Spec.Strategy.RollingUpdate
			if rolling == nil || rolling.MaxUnavailable.String() != "0" || rolling.MaxSurge.String() == "0" {
				mistakes = mistake(mistakes, "%s: an update stops an instance before the next one is ready", workload)
			}
			if deployment.Spec.MinReadySeconds == 0 {
				mistakes = mistake(mistakes, "%s: no minReadySeconds", workload)
			}
		}
		if set := workload.statefulSet; set != nil {
			if set.Spec.UpdateStrategy.Type != "RollingUpdate" || set.Spec.MinReadySeconds == 0 {
				mistakes = mistake(mistakes, "%s: an update does not wait until a pod is ready for minReadySeconds", workload)
			}
			if service := c.service(set.Spec.ServiceName); service == nil || service.Spec.ClusterIP != "None" {
				mistakes = mistake(mistakes, "%s: no headless Service `%s`", workload, set.Spec.ServiceName)
			}
		}
		if len(workload.pod.Spec.TopologySpreadConstraints) < 2 {
			mistakes = mistake(mistakes, "%s: instances are not spread over nodes and zones", workload)
		}
	}
	return mistakes
}

// instances returns the least and the greatest number of instances.
func (c *cluster) instances(workload *workload) (int32, int32) {
	for _, scaler := range c.autoscalers {
		if workload.deployment != nil && scaler.Spec.ScaleTargetRef.Name == workload.name {
			return *scaler.Spec.MinReplicas, scaler.Spec.MaxReplicas
		}
	}
	return *workload.replicas, *workload.replicas
}

// disruptions: every role has one budget, which allows one pod at a time to be evicted.
func disruptions(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		count := 0
		for _, budget := range c.budgets {
			for _, selected := range c.selected(budget.Namespace, budget.Spec.Selector) {
				if selected != workload {
					continue
				}
				count++
				if allowed := budget.Spec.MaxUnavailable; allowed == nil || allowed.String() != "1" {
					mistakes = mistake(mistakes, "PodDisruptionBudget %s: does not allow one pod at a time", budget.Name)
				}
			}
		}
		if workload.runs() && count != 1 {
			mistakes = mistake(mistakes, "%s: %d disruption budgets", workload, count)
		}
	}
	return mistakes
}

var metric = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:counter|gauge|histogram) \\|")

// autoscaling: the target exists and sets no number itself, and each metric is one of the program that the adapter's rule serves.
func autoscaling(c *cluster, p *project) (mistakes []string) {
	var adapter struct {
		Rules struct {
			Custom []struct {
				SeriesQuery string `json:"seriesQuery"`
				Name        struct {
					As string `json:"as"`
				} `json:"name"`
			} `json:"custom"`
		} `json:"rules"`
	}
	path := manifests + "/overlays/production/prometheus-adapter.yaml"
	if err := yaml.Unmarshal([]byte(p.files[path]), &adapter); err != nil {
		return mistake(nil, "%s: %v", path, err)
	}
	var known, served []string
	for _, match := range metric.FindAllStringSubmatch(p.section("Metrics"), -1) {
		known = append(known, match[1])
	}
	for _, rule := range adapter.Rules.Custom {
		if series := regexp.MustCompile(`^\w+`).FindString(rule.SeriesQuery); !contains(known, series) {
			mistakes = mistake(mistakes, "%s: %s has no metric `%s`", path, operations, series)
		}
		served = append(served, rule.Name.As)
	}
	for _, scaler := range c.autoscalers {
		target := scaler.Spec.ScaleTargetRef
		found := false
		for _, workload := range c.workloads {
			if workload.name == target.Name && (workload.deployment != nil) == (target.Kind == "Deployment") {
				found = true
				if !contains(c.unscaled, workload.name) {
					mistakes = mistake(mistakes, "%s: `replicas` would undo the autoscaler at every apply", workload)
				}
			}
		}
		if !found {
			mistakes = mistake(mistakes, "HorizontalPodAutoscaler %s: no %s `%s`", scaler.Name, target.Kind, target.Name)
		}
		for _, one := range scaler.Spec.Metrics {
			if one.Pods != nil && !contains(served, one.Pods.Metric.Name) {
				mistakes = mistake(mistakes, "HorizontalPodAutoscaler %s: the adapter has no metric `%s`", scaler.Name, one.Pods.Metric.Name)
			}
		}
	}
	return mistakes
}
