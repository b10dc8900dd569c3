// What Grafana publishes of dashboards and of each kind of panel, put together so that a compiler can judge JSON by it: a field that is not there, a
// missing one, or a word that is none of an enum's is an error that names it.

import type * as dashboard from "./node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type * as bargauge from "./node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen";
import type * as heatmap from "./node_modules/@grafana/schema/dist/types/raw/composable/heatmap/panelcfg/x/types.gen";
import type * as stat from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as statetimeline from "./node_modules/@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen";
import type * as table from "./node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as timeseries from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

/** As it is written in JSON: an enum's word instead of its name. */
type Json<T> = unknown extends T
  ? unknown
  : T extends string
    ? `${T}`
    : T extends number | boolean | null | undefined
      ? T
      : T extends Array<infer One>
        ? Array<Json<One>>
        : { [Key in keyof T]: Json<T[Key]> };

/** A query to Prometheus: @grafana/schema leaves it to the data source. */
interface Target {
  refId: string;
  datasource: Json<dashboard.DataSourceRef>;
  expr: string;
  legendFormat?: string;
  format?: "time_series" | "table" | "heatmap";
  instant: boolean;
  range: boolean;
}

interface Transformations {
  merge: Record<string, never>;
  organize: {
    excludeByName: Record<string, boolean>;
    indexByName: Record<string, number>;
    renameByName: Record<string, string>;
  };
  groupingToMatrix: {
    rowField: string;
    columnField: string;
    valueField: string;
    emptyValue: "null" | "empty" | "zero";
  };
}

type Transformation = {
  [Id in keyof Transformations]: { id: Id; options: Transformations[Id] };
}[keyof Transformations];

interface Of<Kind extends string, Options, Custom> extends Pick<
  Json<dashboard.Panel>,
  "title" | "description" | "datasource"
> {
  type: Kind;
  id: number;
  gridPos: Json<dashboard.GridPos>;
  targets: Target[];
  options: Json<Options>;
  transformations?: Transformation[];
  fieldConfig: {
    defaults: Omit<Json<dashboard.FieldConfig>, "custom"> & { custom?: Json<Partial<Custom>> };
    overrides: Array<{ matcher: { id: "byName"; options: string }; properties: Array<{ id: "unit"; value: string }> }>;
  };
}

type Panel =
  | Of<"bargauge", bargauge.Options, never>
  | Of<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Of<"stat", stat.Options, never>
  | Of<"state-timeline", statetimeline.Options, statetimeline.FieldConfig>
  | Of<"table", table.Options, table.FieldConfig>
  | Of<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Json<dashboard.RowPanel>;

/** What Prometheus adds to an annotation. */
type Annotation = Json<dashboard.AnnotationQuery> & { expr: string; step: string; titleFormat: string };

export type Dashboard = Omit<Json<dashboard.Dashboard>, "panels" | "annotations"> & {
  panels: Panel[];
  annotations: { list: Annotation[] };
};

// That the compiler refuses what is wrong: where it did not, these lines themselves would be errors.
// @ts-expect-error no such kind
export const noKind: Panel["type"] = "graph";
// @ts-expect-error no such word
export const noWord: stat.Options["colorMode"] | Json<stat.Options["colorMode"]> = "valeu";
// @ts-expect-error no such field
export const noField: Json<dashboard.GridPos> = { x: 0, y: 0, w: 1, h: 1, z: 1 };
