package main

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// A setting is a row of the table in docs/operations.md.
type setting struct {
	fallback string
}

func (s setting) required() bool { return s.fallback == "required" }

var (
	row     = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| [^|]* \\| ([^|]*) \\| ([^|]*) \\|")
	tracing = regexp.MustCompile("`(OTEL_[A-Z_]+)`")
)

// settingsOf returns the settings of a command by name.
func (p *project) settingsOf(command string) map[string]setting {
	known := map[string]setting{}
	for _, match := range row.FindAllStringSubmatch(p.section("Settings"), -1) {
		commands := strings.Split(match[2], ", ")
		if match[2] == "all" || contains(commands, command) {
			known[match[1]] = setting{strings.Trim(match[3], "`")}
		}
	}
	for _, match := range tracing.FindAllStringSubmatch(p.section("Traces"), -1) {
		known[match[1]] = setting{"off"}
	}
	return known
}

// A role of docker-compose.yml.
type composeService struct {
	Image    string   `json:"image"`
	Command  []string `json:"command"`
	MemLimit string   `json:"mem_limit"`
}

// composeServices returns the services that run the program, by command.
func (p *project) composeServices() (map[string]composeService, error) {
	var file struct {
		Services map[string]composeService `json:"services"`
	}
	if err := yaml.Unmarshal([]byte(p.files[compose]), &file); err != nil {
		return nil, err
	}
	found := map[string]composeService{}
	for _, one := range file.Services {
		if strings.HasPrefix(one.Image, "tidings:") {
			found[one.Command[0]] = one
		}
	}
	return found, nil
}

// roles: each service of docker-compose.yml is a workload, and no other exists. The keys are made by hand.
func roles(c *cluster, p *project) (mistakes []string) {
	services, err := p.composeServices()
	if err != nil || len(services) < 6 {
		return mistake(nil, "%s: %d services with the program: %v", compose, len(services), err)
	}
	delete(services, "keygen")
	for _, workload := range c.workloads {
		if _, known := services[workload.command()]; !known {
			mistakes = mistake(mistakes, "%s: runs `%s`, which %s does not have", workload, workload.command(), compose)
		}
		if count := len(workload.pod.Spec.Containers) + len(workload.pod.Spec.InitContainers); count != 1 {
			mistakes = mistake(mistakes, "%s: has %d containers, and the rules know one", workload, count)
		}
		delete(services, workload.command())
	}
	for _, missing := range keys(services) {
		mistakes = mistake(mistakes, "no workload runs `%s`", missing)
	}
	return mistakes
}

// settings: each variable is a setting of the command, those that are required are set, and no value is empty.
func settings(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		known := p.settingsOf(workload.command())
		if len(known) < 5 {
			mistakes = mistake(mistakes, "%s has no settings of `%s`", operations, workload.command())
		}
		variables := c.environment(workload, p)
		for _, name := range keys(variables) {
			if _, is := known[name]; !is {
				mistakes = mistake(mistakes, "%s: `%s` is no setting of `%s`", workload, name, workload.command())
			}
			if variables[name] == "" {
				mistakes = mistake(mistakes, "%s: `%s` is empty", workload, name)
			}
		}
		for _, name := range keys(known) {
			if _, set := variables[name]; known[name].required() && !set {
				mistakes = mistake(mistakes, "%s: `%s` is not set", workload, name)
			}
		}
		if workload.command() == "migrate" {
			for _, name := range []string{"AUTH_DATABASE_URL", "DIALOG_DATABASE_URL", "COUNTER_DATABASE_URL", "KAFKA_URL"} {
				if _, set := variables[name]; !set {
					mistakes = mistake(mistakes, "%s: `%s` is not set", workload, name)
				}
			}
		}
		instance, named := variables["INSTANCE"]
		if named && (workload.statefulSet == nil || instance != "metadata.name") {
			mistakes = mistake(mistakes, "%s: INSTANCE must be the name of a pod of a StatefulSet, the same after a restart", workload)
		}
		if workload.statefulSet != nil && !named {
			mistakes = mistake(mistakes, "%s: `INSTANCE` is not set", workload)
		}
	}
	return mistakes
}

var duration = regexp.MustCompile(`^(\d+)(ms|s|m|h|d)$`)

// parseDuration parses a DURATION of the settings.
func parseDuration(text string) (time.Duration, bool) {
	match := duration.FindStringSubmatch(text)
	if match == nil {
		return 0, false
	}
	number, err := strconv.Atoi(match[1])
	unit := map[string]time.Duration{
		"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[match[2]]
	return time.Duration(number) * unit, err == nil
}
