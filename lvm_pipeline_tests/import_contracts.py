"""An import contract that import-linter does not bring."""

from importlinter import Contract, ContractCheck, fields, output


class MachineryOnlyContract(Contract):
    """Modules of a package import, of their siblings, only those whose names begin with an underscore.

    So one architecture never leans on another, and a new one needs no line in the configuration. The package itself
    imports none of its modules by name, so that its `__init__` lists nothing.
    """

    package = fields.StringField()

    def check(self, graph, verbose):
        package = str(self.package)
        siblings = {name for name in graph.modules if name.startswith(f"{package}.")}
        plain = {name for name in siblings if not name.removeprefix(f"{package}.").startswith("_")}
        broken = sorted(
            (importer, imported)
            for imported in plain
            for importer in graph.find_modules_that_directly_import(imported) & (siblings | {package})
            if importer.split(".")[:3] != imported.split(".")[:3]
        )
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check):
        for importer, imported in check.metadata["broken"]:
            output.print_error(f"{importer} imports {imported}", bold=False)
