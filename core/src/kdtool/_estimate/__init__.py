"""What a run will take, before anything is made: memory by part and stage, disk, tokens and time.

Components know the formulas and give `records.Estimate`s; here they are only added up. No torch is imported.

- `records` what components are told (`Prospect`) and what they answer (`Estimate`, `Saving`)
- `ahead` makes the prospect of an assembly and asks its components
- `forecast` adds up: parts of a stage together, the greatest stage counts
- `remedies` changes of the recipe under which it would fit, each tried
- `machine` memory and disk of this machine
- `other_work` processor time that other processes take, and how threads wait beside them
- `speed` what an earlier run of the same name tells about time

Called by `kdtool._api.check`.
"""
