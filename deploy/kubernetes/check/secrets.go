package main

import (
	"path"
	"regexp"
	"strings"

	core "k8s.io/api/core/v1"
)

var (
	create   = regexp.MustCompile(`create secret (?:generic|tls) ([\w-]+)(.*)`)
	fromFile = regexp.MustCompile(`--from-file=(\S+)`)
	variable = regexp.MustCompile(`(?m)^([A-Z_]+_URL)=`)
)

// secrets returns the keys of the Secrets that the section Kubernetes of docs/operations.md creates, by name.
func (p *project) secrets() map[string][]string {
	text := p.section("Kubernetes")
	found := map[string][]string{}
	for _, match := range create.FindAllStringSubmatch(text, -1) {
		names := []string{}
		for _, file := range fromFile.FindAllStringSubmatch(match[2], -1) {
			names = append(names, path.Base(file[1]))
		}
		if strings.Contains(match[2], "--from-env-file=") {
			for _, one := range variable.FindAllStringSubmatch(text, -1) {
				names = append(names, one[1])
			}
		}
		found[match[1]] = names
	}
	return found
}

// keyFiles: each file of a setting is a key of a mounted Secret, and the program accepts its mode. Only auth has the signing key.
func keyFiles(c *cluster, p *project) (mistakes []string) {
	for _, workload := range c.workloads {
		variables := c.environment(workload, p)
		for _, name := range keys(variables) {
			if !strings.HasSuffix(name, "_FILE") {
				continue
			}
			volume := volumeAt(workload, path.Dir(variables[name]))
			switch {
			case volume == nil || volume.Secret == nil:
				mistakes = mistake(mistakes, "%s: %s: no Secret is mounted at %s", workload, name, path.Dir(variables[name]))
			case !contains(p.secrets()[volume.Secret.SecretName], path.Base(variables[name])):
				mistakes = mistake(mistakes, "%s: %s: the Secret `%s` has no `%s`", workload, name,
					volume.Secret.SecretName, path.Base(variables[name]))
			case !readable(workload, volume):
				mistakes = mistake(mistakes, "%s: %s: the program needs a file that only root and fsGroup can read", workload, name)
			}
		}
		for _, volume := range workload.pod.Spec.Volumes {
			if volume.Secret != nil && volume.Secret.SecretName == "signing-key" && workload.command() != "auth" {
				mistakes = mistake(mistakes, "%s: has the signing key, which only auth needs", workload)
			}
			if volume.Secret != nil && p.secrets()[volume.Secret.SecretName] == nil {
				mistakes = mistake(mistakes, "%s: %s does not create the Secret `%s`", workload, operations, volume.Secret.SecretName)
			}
		}
	}
	return mistakes
}

// readable returns true if the files belong to root and are readable for the group of the process, and for no other user.
func readable(workload *workload, volume *core.Volume) bool {
	context, mode := workload.pod.Spec.SecurityContext, volume.Secret.DefaultMode
	return context != nil && context.FSGroup != nil && mode != nil && *mode&0o040 != 0 && *mode&0o037 == 0
}

// volumeAt returns the volume that is mounted at a folder.
func volumeAt(workload *workload, folder string) *core.Volume {
	for _, mount := range workload.container().VolumeMounts {
		for _, volume := range workload.pod.Spec.Volumes {
			if mount.MountPath == folder && mount.Name == volume.Name && mount.ReadOnly {
				return &volume
			}
		}
	}
	return nil
}
