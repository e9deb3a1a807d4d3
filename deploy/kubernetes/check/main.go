// Command check builds kustomizations of Tidings and prints every mistake that it finds: objects that the API server would
// refuse, and differences from the program, docker-compose.yml and docs/operations.md. It needs no cluster.
//
//	check [-root REPOSITORY] FOLDER…     FOLDER is below deploy/kubernetes, such as overlays/production
package main

import (
	"flag"
	"fmt"
	"os"
)

// A rule returns the mistakes that it finds.
type rule func(*cluster, *project) []string

var rules = []rule{
	references, selectors, namespaces,
	roles, settings, keyFiles,
	images, restrictions, probes, resources,
	shutdown, rollout, disruptions, autoscaling,
	ports, connections, engines, outside,
}

func main() {
	root := flag.String("root", "../../..", "root of the repository")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	project, err := readProject(*root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed := false
	for _, folder := range flag.Args() {
		count, mistakes := check(project, folder)
		for _, mistake := range mistakes {
			fmt.Fprintf(os.Stderr, "%s: %s\n", folder, mistake)
		}
		failed = failed || len(mistakes) > 0
		fmt.Printf("%s: %d objects, %d mistakes\n", folder, count, len(mistakes))
	}
	if failed {
		os.Exit(1)
	}
}

// check returns the number of objects of a kustomization and its mistakes. The rules run on objects that the API accepts.
func check(project *project, folder string) (int, []string) {
	documents, err := project.build(folder)
	if err != nil {
		return 0, []string{err.Error()}
	}
	cluster, mistakes := decode(documents)
	if len(mistakes) == 0 {
		for _, rule := range rules {
			mistakes = append(mistakes, rule(cluster, project)...)
		}
	}
	return len(documents), mistakes
}
